// Which images are shown as thumbnails at which zoom: as many as do not overlap, and the same ones wherever the map
// is moved to. Who is shown stays shown when zooming in; others join where there is room.

const MOST_LEVEL = 30; // two levels: twice the zoom
const NEVER = 255;
const appears = new Uint8Array(count).fill(NEVER); // the level from which on each one is shown
let spreadTo = -1; // levels that are worked out

// To begin anew, after other images are lit.
function forgetSpread() {
  appears.fill(NEVER);
  spreadTo = -1;
}

function spread(level) {
  while (spreadTo < Math.min(level, MOST_LEVEL)) spreadOne(++spreadTo);
}

// One level: the plane in squares as large as a thumbnail with its margin, each of which holds one image at most.
function spreadOne(level) {
  const side = 2 ** (-level / 2), across = Math.ceil(1 / side) + 3;
  const square = (i) => (1 + Math.floor(places[2 * i + 1] / side)) * across + 1 + Math.floor(places[2 * i] / side);
  const held = new Map();
  const clear = (i, at) => {
    const other = held.get(at) ?? i;
    const x = Math.abs(places[2 * other] - places[2 * i]), y = Math.abs(places[2 * other + 1] - places[2 * i + 1]);
    return other === i || x >= side || y >= side;
  };
  for (let i = 0; i < count; i++) if (appears[i] < level) held.set(square(i), i);
  for (let i = 0; i < count; i += data.step) {
    if (appears[i] !== NEVER || !lit[i] || !shapes[2 * (i / data.step)]) continue;
    const own = square(i);
    if (held.has(own)) continue;
    const around = [own - across, own, own + across];
    if (!around.every((at) => clear(i, at - 1) && clear(i, at) && clear(i, at + 1))) continue;
    held.set(own, i);
    appears[i] = level;
  }
}
