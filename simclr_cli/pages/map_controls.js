// Pointer, wheel, touch and keyboard; and the first drawing.

const MAX_ZOOM = 2_000; // relative to the whole map
const MAX_CLICK_MOVEMENT = 5; // px
const ARROW_STEP = 90; // px
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const pointers = new Map(); // positions of the pointers that are down, by id
let moved = 0; // px since the first pointer went down
let flightFrame = 0; // the pending frame of an animation
let target = null; // the view at its end; null: there is no animation

const clampScale = (scale) => Math.min(fittedScale * MAX_ZOOM, Math.max(fittedScale / 2, scale));

function clampView() {
  view.scale = clampScale(view.scale);
  const margin = 0.25 * Math.max(width, height) / view.scale; // images at an edge can be moved out from under the panel
  view.x = Math.min(extentX + margin, Math.max(-margin, view.x));
  view.y = Math.min(extentY + margin, Math.max(-margin, view.y));
}

// Zooms around a point of the screen, which stays in place.
function zoom(factor, x = width / 2, y = height / 2) {
  const scale = view.scale;
  view.scale *= factor;
  clampView();
  const shift = 1 / scale - 1 / view.scale;
  view.x += (x - width / 2) * shift;
  view.y += (y - height / 2) * shift;
  clampView();
  redraw();
}

function pan(x, y) {
  view.x -= x / view.scale;
  view.y -= y / view.scale;
  clampView();
  redraw();
}

// Moves smoothly to another view.
function fly(to, ms = 260) {
  stopFlight();
  target = to;
  const from = { ...view }, start = performance.now();
  const step = (now) => {
    const progress = reducedMotion.matches ? 1 : Math.min(1, Math.max(0, (now - start) / ms));
    const eased = progress * (2 - progress);
    view.scale = from.scale * (to.scale / from.scale) ** eased;
    view.x = from.x + (to.x - from.x) * eased;
    view.y = from.y + (to.y - from.y) * eased;
    clampView();
    draw();
    if (progress < 1) flightFrame = requestAnimationFrame(step);
    else target = null;
  };
  flightFrame = requestAnimationFrame(step);
}

function stopFlight() {
  cancelAnimationFrame(flightFrame);
  target = null;
}

function flyZoom(factor) {
  const from = target ?? view;
  fly({ ...from, scale: clampScale(from.scale * factor) });
}

// Moves an image to the center of what the panel leaves free, at a scale that separates it from its neighbors.
function flyTo(i) {
  const scale = Math.max(view.scale, fittedScale * 4), isPanelBelow = panel.offsetWidth >= width;
  const x = positions[2 * i] + (isPanelBelow ? 0 : panel.offsetWidth / 2 / scale);
  const y = positions[2 * i + 1] + (isPanelBelow ? panel.offsetHeight / 2 / scale : 0);
  fly({ x, y, scale }, 420);
}

function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

const reachOf = (event) => (event.pointerType === "touch" ? 22 : 12);

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  stopFlight();
  canvas.setPointerCapture(event.pointerId);
  if (!pointers.size) moved = 0;
  pointers.set(event.pointerId, pointOf(event));
  hover(-1);
});

canvas.addEventListener("pointermove", (event) => {
  const [x, y] = pointOf(event), last = pointers.get(event.pointerId);
  if (!last) {
    if (event.pointerType !== "touch") hover(imageAt(x, y, reachOf(event)), x, y);
    return;
  }
  moved += Math.hypot(x - last[0], y - last[1]);
  if (pointers.size === 1 && moved >= MAX_CLICK_MOVEMENT) {
    canvas.classList.add("dragged");
    pan(x - last[0], y - last[1]);
  }
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const distance = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    pan((x - last[0]) / 2, (y - last[1]) / 2);
    zoom(distance([x, y]) / distance(last), (x + other[0]) / 2, (y + other[1]) / 2);
  }
  pointers.set(event.pointerId, [x, y]);
});

function releasePointer(event) {
  if (!pointers.delete(event.pointerId) || pointers.size) return;
  canvas.classList.remove("dragged");
  if (event.type === "pointerup" && moved < MAX_CLICK_MOVEMENT) select(imageAt(...pointOf(event), reachOf(event)));
}
canvas.addEventListener("pointerup", releasePointer);
canvas.addEventListener("pointercancel", releasePointer);
canvas.addEventListener("pointerleave", () => hover(-1));

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  stopFlight();
  const pixelsPerUnit = event.deltaMode ? 16 : 1; // some mice count in lines
  const pinchFactor = event.ctrlKey ? 8 : 1; // browsers report a pinch on a touchpad as a wheel with Ctrl
  const delta = Math.min(200, Math.max(-200, event.deltaY * pixelsPerUnit * pinchFactor));
  hover(-1);
  zoom(Math.exp(-delta * 0.002), ...pointOf(event));
}, { passive: false });

const KEYS = {
  ArrowLeft: () => pan(ARROW_STEP, 0), ArrowRight: () => pan(-ARROW_STEP, 0),
  ArrowUp: () => pan(0, ARROW_STEP), ArrowDown: () => pan(0, -ARROW_STEP),
  "+": () => flyZoom(1.6), "=": () => flyZoom(1.6), "-": () => flyZoom(1 / 1.6), 0: () => fly(fitView()),
  Enter: () => {
    const central = imageAt(width / 2, height / 2, Math.hypot(width, height));
    if (central < 0) return;
    select(central);
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
byId("in").addEventListener("click", () => flyZoom(1.6));
byId("out").addEventListener("click", () => flyZoom(1 / 1.6));
byId("all").addEventListener("click", () => fly(fitView()));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readTheme();
  redraw();
});
new ResizeObserver(resize).observe(canvas);
readTheme();
resize();
if (groupings.length) byId("color").value = groupings[0].name;
colorBy(byId("color").value);
