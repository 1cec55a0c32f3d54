// What the page holds: places, neighbors, groups, thumbnails.

const byId = (id) => document.getElementById(id);

function unpacked(kind, text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return new kind(bytes.buffer);
}

const data = JSON.parse(byId("data").textContent);
const names = data.names;
const count = names.length;
const places = unpacked(Float32Array, data.places); // x and y of each, 0 to 1
const neighbors = unpacked(Uint32Array, data.neighbors);
const similarities = unpacked(Float32Array, data.similarities);
const shapes = unpacked(Uint8Array, data.shapes); // width and height of each thumbnail, px
const groupings = data.groupings.map((grouping) => ({ ...grouping, which: unpacked(Uint32Array, grouping.which) }));
const lit = new Uint8Array(count).fill(1); // 0: what the search or the legend leaves out

let extentX = 0, extentY = 0;
for (let i = 0; i < count; i++) {
  extentX = Math.max(extentX, places[2 * i]);
  extentY = Math.max(extentY, places[2 * i + 1]);
}

// The address of an image's file: given where a name is not its own. None: a browser might take the file for a page.
const address = (i) => (data.links[i] === "" ? null : data.root + (data.links[i] ?? names[i]));

// Thumbnails: cut out of sheets, which are decoded when they are first needed.
const perSheet = data.columns * data.columns;
const sheets = new Map(); // null: on its way
let loaded = Promise.resolve(); // one after the other, so that the page stays quick

// Where image i has its thumbnail: {sheet, x, y, width, height}, or null; its sheet may still have to come.
function thumbnail(i) {
  const t = i / data.step;
  if (!Number.isInteger(t) || !shapes[2 * t]) return null;
  const place = t % perSheet;
  const x = (place % data.columns) * data.side, y = Math.floor(place / data.columns) * data.side;
  return { sheet: sheetOf(Math.floor(t / perSheet)), x, y, width: shapes[2 * t], height: shapes[2 * t + 1] };
}

function sheetOf(number) {
  if (!sheets.has(number)) {
    sheets.set(number, null);
    loaded = loaded.then(() => load(number));
  }
  return sheets.get(number);
}

async function load(number) {
  const image = new Image();
  image.src = "data:image/jpeg;base64," + byId(`sheet-${number}`).textContent;
  await image.decode();
  sheets.set(number, await createImageBitmap(image));
  redraw();
  refreshImages();
}

// Draws a thumbnail into a canvas of its own, `most` px at its longer side. False: not there yet, or never.
function drawInto(canvas, i, most) {
  const from = thumbnail(i);
  canvas.hidden = !from;
  if (!from) return;
  const factor = most / Math.max(from.width, from.height), fine = devicePixelRatio || 1;
  canvas.style.width = `${Math.round(from.width * factor)}px`;
  canvas.style.height = `${Math.round(from.height * factor)}px`;
  canvas.width = Math.round(from.width * factor * fine);
  canvas.height = Math.round(from.height * factor * fine);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  if (from.sheet) pen.drawImage(from.sheet, from.x, from.y, from.width, from.height, 0, 0, canvas.width, canvas.height);
}
