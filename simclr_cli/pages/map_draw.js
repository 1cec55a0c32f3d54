// The drawing of the map: the images in view, as dots written pixel by pixel, and thumbnails over them.

const canvas = byId("map");
const context = canvas.getContext("2d");
const THUMBNAIL_SIDE = Math.min(52, Math.max(28, Math.round(data.side * 0.75))); // px, at least
const MAX_ENLARGEMENT = 1.75; // of a thumbnail, if there is room
const SPACING = 1.12; // from thumbnail to thumbnail, in sides of one
const MAX_COLORED_GROUPS = 9; // all further groups share one color
const COLOR_NAMES = [...Array(MAX_COLORED_GROUPS).keys(), "other"]; // of groups, in the style sheet
const view = { x: extentX / 2, y: extentY / 2, scale: 1 }; // center on the plane, and px per unit of the plane
let fittedScale = 1; // the scale at which the whole map is in view
let width = 0, height = 0, pixelRatio = 1; // of the canvas, px; and device pixels per px
let dotImage = null, dotPixels = null; // an ImageData, and its pixels as 32-bit numbers
let grouping = null; // that sets the colors
let selected = -1, hovered = -1; // images
let showsThumbnails = true;
let theme = {};
let pendingFrame = 0;

// Reads the colors of the style sheet, as CSS and as pixels.
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const read = (convert) => {
    const color = (name) => convert(style.getPropertyValue(`--${name}`).trim());
    const [ground, ink, accent, faint, none] = ["ground", "ink", "accent", "faint", "none"].map(color);
    return { ground, ink, accent, faint, none, groups: COLOR_NAMES.map((name) => color(`group-${name}`)) };
  };
  const toPixel = (hex) => {
    const [red, green, blue] = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  };
  theme = { ...read((css) => css), pixels: read(toPixel) };
}

const colorOf = (i, colors) =>
  grouping ? colors.groups[Math.min(grouping.groups[i], MAX_COLORED_GROUPS)] : colors.none;

// Returns the view of the whole map.
function fitView() {
  const margin = 0.5 * MAX_ENLARGEMENT * THUMBNAIL_SIDE + 8;
  const innerWidth = Math.max(50, width - 2 * margin), innerHeight = Math.max(50, height - 2 * margin);
  fittedScale = Math.min(innerWidth / Math.max(extentX, 1e-6), innerHeight / Math.max(extentY, 1e-6), 1e6);
  return { x: extentX / 2, y: extentY / 2, scale: fittedScale };
}

function resize() {
  const box = canvas.getBoundingClientRect(), isFirst = !width;
  const showedAll = isFirst || Math.abs(view.scale / fittedScale - 1) < 1e-6;
  [width, height, pixelRatio] = [box.width, box.height, Math.min(devicePixelRatio || 1, 2)];
  canvas.width = Math.round(width * pixelRatio);
  canvas.height = Math.round(height * pixelRatio);
  dotImage = context.createImageData(Math.max(1, canvas.width), Math.max(1, canvas.height));
  dotPixels = new Uint32Array(dotImage.data.buffer);
  const fitted = fitView();
  if (showedAll) Object.assign(view, fitted);
  redraw();
}

const toScreenX = (i) => (positions[2 * i] - view.x) * view.scale + width / 2;
const toScreenY = (i) => (positions[2 * i + 1] - view.y) * view.scale + height / 2;
// About how many px of the screen there are from image to image.
const pixelsPerImage = () => Math.sqrt((width * height) / Math.max(count, 1)) * (view.scale / fittedScale);
// The side of thumbnails, px. It grows more slowly than the scale, so that zooming in makes room between them.
const thumbnailSide = () =>
  THUMBNAIL_SIDE * Math.min(MAX_ENLARGEMENT, Math.max(1, (pixelsPerImage() / (1.5 * THUMBNAIL_SIDE)) ** 0.4));
const currentLevel = () => Math.floor(2 * Math.log2(view.scale / (thumbnailSide() * SPACING)));
const isThumbnail = (i) => showsThumbnails && firstLevel[i] <= currentLevel();

// Calls visit(i) for every image in view or within `margin` px around it.
function forEachInView(margin, visit) {
  const reachX = (width / 2 + margin) / view.scale, reachY = (height / 2 + margin) / view.scale;
  for (let i = 0; i < count; i++) {
    if (Math.abs(positions[2 * i] - view.x) <= reachX && Math.abs(positions[2 * i + 1] - view.y) <= reachY) visit(i);
  }
}

// Draws once in the next frame, however often it is called before.
function redraw() {
  cancelAnimationFrame(pendingFrame);
  pendingFrame = requestAnimationFrame(draw);
}

function draw() {
  const level = currentLevel();
  if (showsThumbnails) assignLevels(level);
  const thumbnails = drawDots(showsThumbnails ? level : -1);
  const side = thumbnailSide();
  for (const i of thumbnails) drawThumbnail(i, side);
  if (selected >= 0) drawSelected();
  if (hovered >= 0 && hovered !== selected) drawOutline(hovered, theme.ink, 2);
}

// Returns a disc as offsets from its center, and how much of each pixel it covers, 0 to 256. Small discs, of which
// there are many, have hard edges.
function makeDisc(radius) {
  const reach = Math.ceil(radius), offsets = [], coverage = [];
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const inside = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      const share = radius < 2 ? Math.round(inside) : inside;
      if (share > 0.05) {
        offsets.push(y * canvas.width + x);
        coverage.push(Math.round(256 * share));
      }
    }
  }
  return { reach, offsets: Int32Array.from(offsets), coverage: Uint16Array.from(coverage) };
}

// Mixes two pixels; `coverage` of the upper one is 0 to 256.
function blend(lower, upper, coverage) {
  const uncovered = 256 - coverage;
  const redBlue = (((lower & 0xff00ff) * uncovered + (upper & 0xff00ff) * coverage) >>> 8) & 0xff00ff;
  const green = (((lower & 0xff00) >>> 8) * uncovered + ((upper & 0xff00) >>> 8) * coverage) & 0xff00;
  return (0xff000000 | redBlue | green) >>> 0;
}

// Draws all images in view that are no thumbnails as dots; returns the thumbnails.
function drawDots(level) {
  const radius = Math.min(4.5, Math.max(1.3, 0.17 * pixelsPerImage())) * pixelRatio;
  const { reach, offsets, coverage } = makeDisc(radius);
  const columns = canvas.width, rows = canvas.height, size = offsets.length;
  const thumbnails = [], faintDots = [], coloredDots = [];
  forEachInView(MAX_ENLARGEMENT * THUMBNAIL_SIDE, (i) => {
    if (firstLevel[i] <= level) thumbnails.push(i);
    else (isVisible[i] ? coloredDots : faintDots).push(i);
  });
  dotPixels.fill(theme.pixels.ground);
  const scale = view.scale * pixelRatio, left = columns / 2 - view.x * scale, top = rows / 2 - view.y * scale;
  const drawDot = (i, color) => {
    const x = Math.round(positions[2 * i] * scale + left), y = Math.round(positions[2 * i + 1] * scale + top);
    if (x < reach || y < reach || x >= columns - reach || y >= rows - reach) return;
    const center = y * columns + x;
    for (let k = 0; k < size; k++) {
      const pixel = center + offsets[k];
      dotPixels[pixel] = coverage[k] > 250 ? color : blend(dotPixels[pixel], color, coverage[k]);
    }
  };
  for (const i of faintDots) drawDot(i, theme.pixels.faint);
  for (const i of coloredDots) drawDot(i, colorOf(i, theme.pixels));
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.putImageData(dotImage, 0, 0);
  context.setTransform(pixelRatio, 0, 0, pixelRatio, 0, 0);
  return thumbnails;
}

// Returns [left, top, width, height] of a thumbnail on the screen, px.
function thumbnailBox(i, side = thumbnailSide()) {
  const number = i / data.step, sourceWidth = shapes[2 * number], sourceHeight = shapes[2 * number + 1];
  const scale = side / Math.max(sourceWidth, sourceHeight, 1);
  const boxWidth = sourceWidth * scale, boxHeight = sourceHeight * scale;
  return [toScreenX(i) - boxWidth / 2, toScreenY(i) - boxHeight / 2, boxWidth, boxHeight];
}

function drawThumbnail(i, side = thumbnailSide()) {
  const source = findThumbnail(i), [left, top, boxWidth, boxHeight] = thumbnailBox(i, side);
  const edge = grouping ? 2 : 0;
  if (edge) {
    context.fillStyle = colorOf(i, theme);
    context.fillRect(left - edge, top - edge, boxWidth + 2 * edge, boxHeight + 2 * edge);
  }
  if (source.sheet) {
    const { sheet, x, y, width, height } = source;
    context.drawImage(sheet, x, y, width, height, left, top, boxWidth, boxHeight);
  } else {
    context.fillStyle = theme.faint;
    context.fillRect(left, top, boxWidth, boxHeight);
  }
}

function drawOutline(i, color, lineWidth) {
  context.strokeStyle = color;
  context.lineWidth = lineWidth;
  if (isThumbnail(i)) {
    const [left, top, boxWidth, boxHeight] = thumbnailBox(i);
    context.strokeRect(left - 3, top - 3, boxWidth + 6, boxHeight + 6);
  } else {
    context.beginPath();
    context.arc(toScreenX(i), toScreenY(i), 8, 0, 2 * Math.PI);
    context.stroke();
  }
}

// Draws the selected image, and lines to its nearest neighbors, which may lie far away on the plane.
function drawSelected() {
  context.strokeStyle = theme.accent;
  context.lineWidth = 1.25;
  context.globalAlpha = 0.7;
  context.beginPath();
  for (const neighbor of neighborsOf(selected)) {
    context.moveTo(toScreenX(selected), toScreenY(selected));
    context.lineTo(toScreenX(neighbor), toScreenY(neighbor));
  }
  context.stroke();
  context.globalAlpha = 1;
  for (const neighbor of neighborsOf(selected)) {
    if (isThumbnail(neighbor)) drawThumbnail(neighbor);
    drawOutline(neighbor, theme.accent, 1.5);
  }
  if (isThumbnail(selected)) drawThumbnail(selected);
  drawOutline(selected, theme.accent, 3.5);
}

// Returns the image at a point of the screen: the thumbnail there, else the nearest dot within `reach` px, else -1.
function imageAt(x, y, reach) {
  let nearest = -1, least = reach;
  const level = showsThumbnails ? currentLevel() : -1, side = thumbnailSide();
  forEachInView(MAX_ENLARGEMENT * THUMBNAIL_SIDE, (i) => {
    if (firstLevel[i] <= level) {
      const [left, top, boxWidth, boxHeight] = thumbnailBox(i, side);
      if (x >= left && y >= top && x <= left + boxWidth && y <= top + boxHeight) [nearest, least] = [i, -1];
    }
    const distance = Math.hypot(toScreenX(i) - x, toScreenY(i) - y);
    if (isVisible[i] && distance < least) [nearest, least] = [i, distance];
  });
  return nearest;
}
