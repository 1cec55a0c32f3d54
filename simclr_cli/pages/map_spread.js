// Which pictures are shown as thumbnails at which zoom: as many as do not overlap, and the same ones wherever the map
// is moved to. Who is shown stays shown when zooming in; others join where there is room.

const LEAST_LEVEL = 0, MOST_LEVEL = 30; // two levels: twice the zoom; more, and a key were no 32-bit number
const NEVER = 255;
const appears = new Uint8Array(count).fill(NEVER); // the level from which on each one is shown
let spreadTo = LEAST_LEVEL - 1; // levels that are worked out
let hashed = new Int32Array(0);

// The side of a thumbnail with its margin at a level, in the plane.
const spacingAt = (level) => 2 ** (-level / 2);

// To begin anew, after other pictures are lit.
function forgetSpread() {
  appears.fill(NEVER);
  spreadTo = LEAST_LEVEL - 1;
}

function spread(level) {
  while (spreadTo < Math.min(level, MOST_LEVEL)) spreadOne(++spreadTo);
}

// One level: a hash table from squares of the spacing's side to the one picture that each can hold.
function spreadOne(level) {
  const spacing = spacingAt(level), across = Math.ceil(1 / spacing) + 3;
  const size = 2 ** Math.ceil(Math.log2(2 * count + 2)), mask = size - 1;
  if (hashed.length !== 2 * size) hashed = new Int32Array(2 * size);
  hashed.fill(-1);
  const slot = (key) => {
    let at = (Math.imul(key, 0x9e3779b1) >>> 7) & mask;
    while (hashed[2 * at] !== -1 && hashed[2 * at] !== key) at = (at + 1) & mask;
    return 2 * at;
  };
  const put = (i) => {
    const key = (1 + Math.floor(places[2 * i + 1] / spacing)) * across + 1 + Math.floor(places[2 * i] / spacing);
    const at = slot(key);
    hashed[at] = key;
    hashed[at + 1] = i;
  };
  for (let i = 0; i < count; i++) if (appears[i] < level) put(i);
  for (let i = 0; i < count; i += data.step) {
    if (appears[i] !== NEVER || !lit[i] || !shapes[2 * (i / data.step)]) continue;
    const x = places[2 * i], y = places[2 * i + 1];
    const column = 1 + Math.floor(x / spacing), row = 1 + Math.floor(y / spacing);
    if (hashed[slot(row * across + column)] !== -1) continue;
    let free = true;
    for (let r = row - 1; free && r <= row + 1; r++) {
      for (let c = column - 1; free && c <= column + 1; c++) {
        const at = slot(r * across + c);
        if (hashed[at] === -1) continue;
        const other = hashed[at + 1];
        free = Math.abs(places[2 * other] - x) >= spacing || Math.abs(places[2 * other + 1] - y) >= spacing;
      }
    }
    if (free) {
      put(i);
      appears[i] = level;
    }
  }
}
