// Pointer, wheel, fingers and keys; and the start of it all.

const CLOSEST = 2_000; // how much closer than all in view
const STILL = 5; // px that a click may move
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const fingers = new Map(); // pointers that are down, and where
let moved = 0; // px since the first was put down
let flight = 0; // the animation that is on its way
let goal = null; // where it ends; null: there is none

function clamp() {
  view.scale = Math.min(fitted * CLOSEST, Math.max(fitted / 2, view.scale));
  const room = 0.25 * Math.max(width, height) / view.scale; // what lies at an edge can be moved from under the panel
  view.x = Math.min(extentX + room, Math.max(-room, view.x));
  view.y = Math.min(extentY + room, Math.max(-room, view.y));
}

// By a factor, so that what is at a point of the screen stays there.
function zoom(factor, x = width / 2, y = height / 2) {
  const before = view.scale;
  view.scale *= factor;
  clamp();
  const shift = 1 / before - 1 / view.scale;
  view.x += (x - width / 2) * shift;
  view.y += (y - height / 2) * shift;
  clamp();
  redraw();
}

function pan(x, y) {
  view.x -= x / view.scale;
  view.y -= y / view.scale;
  clamp();
  redraw();
}

// Smoothly to another view.
function fly(to, ms = 260) {
  land();
  goal = to;
  const from = { ...view }, began = performance.now();
  const step = (now) => {
    const share = calm.matches ? 1 : Math.min(1, Math.max(0, (now - began) / ms));
    const eased = share * (2 - share);
    view.scale = from.scale * (to.scale / from.scale) ** eased;
    view.x = from.x + (to.x - from.x) * eased;
    view.y = from.y + (to.y - from.y) * eased;
    clamp();
    draw();
    if (share < 1) flight = requestAnimationFrame(step);
    else goal = null;
  };
  flight = requestAnimationFrame(step);
}

function land() {
  cancelAnimationFrame(flight);
  goal = null;
}

function flyBy(factor) {
  const from = goal ?? view;
  fly({ ...from, scale: Math.min(fitted * CLOSEST, Math.max(fitted / 2, from.scale * factor)) });
}

// An image into the middle of what the panel leaves free, from near enough to be told from its neighbors.
function bring(i) {
  const scale = Math.max(view.scale, fitted * 4), below = panel.offsetWidth >= width;
  const x = places[2 * i] + (below ? 0 : panel.offsetWidth / 2 / scale);
  const y = places[2 * i + 1] + (below ? panel.offsetHeight / 2 / scale : 0);
  fly({ x, y, scale }, 420);
}

function point(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

const reachOf = (event) => (event.pointerType === "touch" ? 22 : 12);

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  land();
  canvas.setPointerCapture(event.pointerId);
  if (!fingers.size) moved = 0;
  fingers.set(event.pointerId, point(event));
  hover(-1);
});

canvas.addEventListener("pointermove", (event) => {
  const [x, y] = point(event), last = fingers.get(event.pointerId);
  if (!last) {
    if (event.pointerType !== "touch") hover(at(x, y, reachOf(event)), x, y);
    return;
  }
  moved += Math.hypot(x - last[0], y - last[1]);
  if (fingers.size === 1 && moved >= STILL) {
    canvas.classList.add("dragged");
    pan(x - last[0], y - last[1]);
  }
  if (fingers.size === 2) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
    const distance = (a) => Math.max(1, Math.hypot(a[0] - other[0], a[1] - other[1]));
    pan((x - last[0]) / 2, (y - last[1]) / 2);
    zoom(distance([x, y]) / distance(last), (x + other[0]) / 2, (y + other[1]) / 2);
  }
  fingers.set(event.pointerId, [x, y]);
});

function lift(event) {
  if (!fingers.delete(event.pointerId) || fingers.size) return;
  canvas.classList.remove("dragged");
  if (event.type === "pointerup" && moved < STILL) choose(at(...point(event), reachOf(event)));
}
canvas.addEventListener("pointerup", lift);
canvas.addEventListener("pointercancel", lift);
canvas.addEventListener("pointerleave", () => hover(-1));

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  land();
  const lines = event.deltaMode ? 16 : 1; // some mice count in lines
  const pinched = event.ctrlKey ? 8 : 1; // as two fingers on a touchpad are told
  const turn = Math.min(200, Math.max(-200, event.deltaY * lines * pinched));
  hover(-1);
  zoom(Math.exp(-turn * 0.002), ...point(event));
}, { passive: false });

const STEP = 90; // px that an arrow moves
const KEYS = {
  ArrowLeft: () => pan(STEP, 0), ArrowRight: () => pan(-STEP, 0), ArrowUp: () => pan(0, STEP), ArrowDown: () => pan(0, -STEP),
  "+": () => flyBy(1.6), "=": () => flyBy(1.6), "-": () => flyBy(1 / 1.6), 0: () => fly(fit()),
  Enter: () => {
    const middle = at(width / 2, height / 2, Math.hypot(width, height));
    if (middle < 0) return;
    choose(middle);
    byId("name").focus();
  },
};
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target !== query) closePanel();
});
byId("in").addEventListener("click", () => flyBy(1.6));
byId("out").addEventListener("click", () => flyBy(1 / 1.6));
byId("all").addEventListener("click", () => fly(fit()));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readTheme();
  redraw();
});
new ResizeObserver(resize).observe(canvas);
readTheme();
resize();
if (groupings.length) byId("color").value = groupings[0].name;
colorBy(byId("color").value);
