// The zoom level from which each image is drawn as a thumbnail: as many images as do not overlap, wherever the map is
// moved to. Zooming in adds thumbnails and removes none.

const MAX_LEVEL = 30; // two levels double the scale
const NEVER = 255;
const firstLevel = new Uint8Array(count).fill(NEVER); // the level from which an image is a thumbnail
let lastLevel = -1; // levels up to this one are assigned

// After other images became visible.
function resetLevels() {
  firstLevel.fill(NEVER);
  lastLevel = -1;
}

function assignLevels(level) {
  while (lastLevel < Math.min(level, MAX_LEVEL)) assignLevel(++lastLevel);
}

// Divides the plane into squares as large as a thumbnail with its spacing. Each square holds one image at most.
function assignLevel(level) {
  const side = 2 ** (-level / 2), columns = Math.ceil(1 / side) + 3;
  const squareOf = (i) =>
    (1 + Math.floor(positions[2 * i + 1] / side)) * columns + 1 + Math.floor(positions[2 * i] / side);
  const imageInSquare = new Map();
  const isClear = (i, square) => {
    const other = imageInSquare.get(square) ?? i;
    const x = Math.abs(positions[2 * other] - positions[2 * i]);
    const y = Math.abs(positions[2 * other + 1] - positions[2 * i + 1]);
    return other === i || x >= side || y >= side;
  };
  for (let i = 0; i < count; i++) if (firstLevel[i] < level) imageInSquare.set(squareOf(i), i);
  for (let i = 0; i < count; i += data.step) {
    if (firstLevel[i] !== NEVER || !isVisible[i] || !shapes[2 * (i / data.step)]) continue;
    const square = squareOf(i);
    if (imageInSquare.has(square)) continue;
    const rows = [square - columns, square, square + columns];
    if (!rows.every((middle) => isClear(i, middle - 1) && isClear(i, middle) && isClear(i, middle + 1))) continue;
    imageInSquare.set(square, i);
    firstLevel[i] = level;
  }
}
