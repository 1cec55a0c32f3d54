// The map as it is drawn: only what is in view, dots as pixels written one by one, thumbnails over them.

const canvas = byId("map");
const pen = canvas.getContext("2d");
const THUMB = Math.min(52, Math.max(28, Math.round(data.side * 0.75))); // px, at least
const MOST_LARGER = 1.75; // times that, where there is room
const GAP = 1.12; // from thumbnail to thumbnail, in sides of one
const MOST_GROUPS = 9; // that have a color of their own; the others share one
const GROUPS = [...Array(MOST_GROUPS).keys(), "other"]; // as their colors are called
const view = { x: extentX / 2, y: extentY / 2, scale: 1 }; // the middle, and px of the screen to the plane's unit
let fitted = 1; // the scale at which all is in view
let width = 0, height = 0, fine = 1; // px, and device pixels to one
let pixels = null, words = null; // of the dots: an ImageData, and its pixels as numbers
let grouping = null; // what colors are by
let chosen = -1, over = -1; // images
let withImages = true;
let theme = {};
let due = 0; // the frame that is on its way

// How a page of ours looks: its colors, as CSS and as a pixel.
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const read = (as) => {
    const color = (name) => as(style.getPropertyValue(`--${name}`).trim());
    const [ground, ink, accent, faint, none] = ["ground", "ink", "accent", "faint", "none"].map(color);
    return { ground, ink, accent, faint, none, groups: GROUPS.map((group) => color(`group-${group}`)) };
  };
  const word = (hex) => {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  };
  theme = { ...read((css) => css), words: read(word) };
}

const colorOf = (i, from) => (grouping ? from.groups[Math.min(grouping.which[i], MOST_GROUPS)] : from.none);

function fit() {
  const margin = 0.5 * MOST_LARGER * THUMB + 8;
  const across = Math.max(50, width - 2 * margin), down = Math.max(50, height - 2 * margin);
  fitted = Math.min(across / Math.max(extentX, 1e-6), down / Math.max(extentY, 1e-6), 1e6);
  return { x: extentX / 2, y: extentY / 2, scale: fitted };
}

function resize() {
  const box = canvas.getBoundingClientRect(), first = !width;
  const whole = first || Math.abs(view.scale / fitted - 1) < 1e-6;
  [width, height, fine] = [box.width, box.height, Math.min(devicePixelRatio || 1, 2)];
  canvas.width = Math.round(width * fine);
  canvas.height = Math.round(height * fine);
  pixels = pen.createImageData(Math.max(1, canvas.width), Math.max(1, canvas.height));
  words = new Uint32Array(pixels.data.buffer);
  const all = fit();
  if (whole) Object.assign(view, all);
  redraw();
}

const acrossTo = (i) => (places[2 * i] - view.x) * view.scale + width / 2;
const downTo = (i) => (places[2 * i + 1] - view.y) * view.scale + height / 2;
// Px of the screen to each image, about.
const room = () => Math.sqrt((width * height) / Math.max(count, 1)) * (view.scale / fitted);
// The side of thumbnails, px: grows with the zoom, but more slowly, so that there is ever more room between them.
const thumbSide = () => THUMB * Math.min(MOST_LARGER, Math.max(1, (room() / (1.5 * THUMB)) ** 0.4));
const level = () => Math.floor(2 * Math.log2(view.scale / (thumbSide() * GAP)));
const asThumbnail = (i) => withImages && appears[i] <= level();

// Calls visit(i) for every image in view, and for those up to a margin of so many px around it.
function inView(margin, visit) {
  const across = (width / 2 + margin) / view.scale, down = (height / 2 + margin) / view.scale;
  for (let i = 0; i < count; i++) {
    if (Math.abs(places[2 * i] - view.x) <= across && Math.abs(places[2 * i + 1] - view.y) <= down) visit(i);
  }
}

// Once in the next frame, however often it is asked for.
function redraw() {
  cancelAnimationFrame(due);
  due = requestAnimationFrame(draw);
}

function draw() {
  const now = level();
  if (withImages) spread(now);
  const thumbs = drawDots(withImages ? now : -1);
  const side = thumbSide();
  for (const i of thumbs) drawThumbnail(i, side);
  if (chosen >= 0) drawChosen();
  if (over >= 0 && over !== chosen) ring(over, theme.ink, 2);
}

// A disc as offsets from its middle, and how much of each pixel it covers, 0 to 256; small ones, of which there are
// many at once, without soft edges.
function disc(radius) {
  const reach = Math.ceil(radius), offsets = [], cover = [];
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const inside = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      const share = radius < 2 ? Math.round(inside) : inside;
      if (share > 0.05) {
        offsets.push(y * canvas.width + x);
        cover.push(Math.round(256 * share));
      }
    }
  }
  return { reach, offsets: Int32Array.from(offsets), cover: Uint16Array.from(cover) };
}

function blended(under, color, share) {
  const rest = 256 - share;
  const odd = (((under & 0xff00ff) * rest + (color & 0xff00ff) * share) >>> 8) & 0xff00ff;
  const green = (((under & 0xff00) >>> 8) * rest + ((color & 0xff00) >>> 8) * share) & 0xff00;
  return (0xff000000 | odd | green) >>> 0;
}

// All that is in view and no thumbnail, as dots; returns what is one.
function drawDots(now) {
  const radius = Math.min(4.5, Math.max(1.3, 0.17 * room())) * fine;
  const { reach, offsets, cover } = disc(radius);
  const wide = canvas.width, high = canvas.height, size = offsets.length;
  const thumbs = [], pale = [], bright = [];
  inView(MOST_LARGER * THUMB, (i) => {
    if (appears[i] <= now) thumbs.push(i);
    else (lit[i] ? bright : pale).push(i);
  });
  words.fill(theme.words.ground);
  const scale = view.scale * fine, left = wide / 2 - view.x * scale, top = high / 2 - view.y * scale;
  const stamp = (i, color) => {
    const x = Math.round(places[2 * i] * scale + left), y = Math.round(places[2 * i + 1] * scale + top);
    if (x < reach || y < reach || x >= wide - reach || y >= high - reach) return;
    const middle = y * wide + x;
    for (let k = 0; k < size; k++) {
      const at = middle + offsets[k];
      words[at] = cover[k] > 250 ? color : blended(words[at], color, cover[k]);
    }
  };
  for (const i of pale) stamp(i, theme.words.faint);
  for (const i of bright) stamp(i, colorOf(i, theme.words));
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.putImageData(pixels, 0, 0);
  pen.setTransform(fine, 0, 0, fine, 0, 0);
  return thumbs;
}

// Where a thumbnail is on the screen: [left, top, width, height], px.
function rectangle(i, size = thumbSide()) {
  const t = i / data.step, wide = shapes[2 * t], high = shapes[2 * t + 1];
  const factor = size / Math.max(wide, high, 1);
  return [acrossTo(i) - wide * factor / 2, downTo(i) - high * factor / 2, wide * factor, high * factor];
}

function drawThumbnail(i, size = thumbSide()) {
  const from = thumbnail(i), [left, top, wide, high] = rectangle(i, size);
  const edge = grouping ? 2 : 0;
  if (edge) {
    pen.fillStyle = colorOf(i, theme);
    pen.fillRect(left - edge, top - edge, wide + 2 * edge, high + 2 * edge);
  }
  if (from.sheet) return pen.drawImage(from.sheet, from.x, from.y, from.width, from.height, left, top, wide, high);
  pen.fillStyle = theme.faint;
  pen.fillRect(left, top, wide, high);
}

function ring(i, color, thick) {
  pen.strokeStyle = color;
  pen.lineWidth = thick;
  if (asThumbnail(i)) {
    const [left, top, wide, high] = rectangle(i);
    pen.strokeRect(left - 3, top - 3, wide + 6, high + 6);
  } else {
    pen.beginPath();
    pen.arc(acrossTo(i), downTo(i), 8, 0, 2 * Math.PI);
    pen.stroke();
  }
}

// The chosen image, and lines to those nearest to it by their vectors, which the plane may have torn apart.
function drawChosen() {
  pen.strokeStyle = theme.accent;
  pen.lineWidth = 1.25;
  pen.globalAlpha = 0.7;
  pen.beginPath();
  for (const other of nearestOf(chosen)) {
    pen.moveTo(acrossTo(chosen), downTo(chosen));
    pen.lineTo(acrossTo(other), downTo(other));
  }
  pen.stroke();
  pen.globalAlpha = 1;
  for (const other of nearestOf(chosen)) {
    if (asThumbnail(other)) drawThumbnail(other);
    ring(other, theme.accent, 1.5);
  }
  if (asThumbnail(chosen)) drawThumbnail(chosen);
  ring(chosen, theme.accent, 3.5);
}

const nearestOf = (i) => neighbors.subarray(i * data.nearest, (i + 1) * data.nearest);

// The image at a point of the screen: a thumbnail that it is on, else the nearest dot within reach; -1: none.
function at(x, y, reach) {
  let best = -1, least = reach;
  const now = withImages ? level() : -1, side = thumbSide();
  inView(MOST_LARGER * THUMB, (i) => {
    if (appears[i] <= now) {
      const [left, top, wide, high] = rectangle(i, side);
      if (x >= left && y >= top && x <= left + wide && y <= top + high) [best, least] = [i, -1];
    }
    const distance = Math.hypot(acrossTo(i) - x, downTo(i) - y);
    if (lit[i] && distance < least) [best, least] = [i, distance];
  });
  return best;
}
