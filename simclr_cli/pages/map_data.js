// The data of the page: names, positions, neighbors, groups and thumbnails.

const byId = (id) => document.getElementById(id);

function unpack(arrayType, base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new arrayType(bytes.buffer);
}

const data = JSON.parse(byId("data").textContent);
const names = data.names;
const count = names.length;
const positions = unpack(Float32Array, data.positions); // x and y of each image, 0 to 1
const neighbors = unpack(Uint32Array, data.neighbors);
const similarities = unpack(Float32Array, data.similarities);
const shapes = unpack(Uint8Array, data.shapes); // width and height of each thumbnail, px
const groupings = data.groupings.map((grouping) => ({ ...grouping, groups: unpack(Uint32Array, grouping.groups) }));
const isVisible = new Uint8Array(count).fill(1); // 0: excluded by the search or the legend

let extentX = 0, extentY = 0;
for (let i = 0; i < count; i++) {
  extentX = Math.max(extentX, positions[2 * i]);
  extentY = Math.max(extentY, positions[2 * i + 1]);
}

const neighborsOf = (i) => neighbors.subarray(i * data.neighborsPerImage, (i + 1) * data.neighborsPerImage);

// The URL of an image's file, or null if a browser might open the file as a page.
const fileUrl = (i) => (data.links[i] === "" ? null : data.root + (data.links[i] ?? names[i]));

// Thumbnails are parts of sprite sheets, which are decoded when they are first needed.
const thumbnailsPerSheet = data.columns * data.columns;
const sheets = new Map(); // ImageBitmaps by number; null while a sheet is being decoded
let lastLoad = Promise.resolve(); // sheets are decoded one after the other, so that the page stays responsive

// Returns {sheet, x, y, width, height} of a thumbnail, or null if there is none. `sheet` is null until it is decoded.
function findThumbnail(i) {
  const number = i / data.step;
  if (!Number.isInteger(number) || !shapes[2 * number]) return null;
  const square = number % thumbnailsPerSheet;
  const x = (square % data.columns) * data.side, y = Math.floor(square / data.columns) * data.side;
  const sheet = requestSheet(Math.floor(number / thumbnailsPerSheet));
  return { sheet, x, y, width: shapes[2 * number], height: shapes[2 * number + 1] };
}

function requestSheet(number) {
  if (!sheets.has(number)) {
    sheets.set(number, null);
    lastLoad = lastLoad.then(() => loadSheet(number));
  }
  return sheets.get(number);
}

async function loadSheet(number) {
  const image = new Image();
  image.src = "data:image/jpeg;base64," + byId(`sheet-${number}`).textContent;
  await image.decode();
  sheets.set(number, await createImageBitmap(image));
  redraw();
  redrawPanelImages();
}

// Draws a thumbnail into its own canvas, `side` px at its longer side. Without a thumbnail the canvas is hidden.
function drawThumbnailInto(canvas, i, side) {
  const source = findThumbnail(i);
  canvas.hidden = !source;
  if (!source) return;
  const scale = side / Math.max(source.width, source.height), ratio = devicePixelRatio || 1;
  canvas.style.width = `${Math.round(source.width * scale)}px`;
  canvas.style.height = `${Math.round(source.height * scale)}px`;
  canvas.width = Math.round(source.width * scale * ratio);
  canvas.height = Math.round(source.height * scale * ratio);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  if (!source.sheet) return;
  context.drawImage(source.sheet, source.x, source.y, source.width, source.height, 0, 0, canvas.width, canvas.height);
}
