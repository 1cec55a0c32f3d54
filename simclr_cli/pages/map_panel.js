// The elements over the map: tooltip, panel of the selected image, search and legend. Names are set as text only.

const tip = byId("tip"), panel = byId("panel"), query = byId("query"), matchCount = byId("match-count");
const TIP_SIDE = 144, NEIGHBOR_SIDE = 52; // px of thumbnails
const selectedSide = () => (panel.offsetWidth < width ? 192 : 112); // less where the panel covers the map
const shownGroups = new Set(); // selected in the legend; if empty, all groups are visible
const lowerNames = names.map((name) => name.toLowerCase()); // for the search
let matches = [];

function createElement(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

// Returns a list item that holds a button.
function createButtonItem(title, content, onClick) {
  const item = createElement("li"), button = createElement("button");
  button.title = title;
  button.append(...content);
  button.addEventListener("click", () => onClick(button));
  item.append(button);
  return item;
}

function hover(i, x, y) {
  if (i !== hovered) redraw();
  hovered = i;
  canvas.classList.toggle("over", i >= 0);
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.querySelector("span").textContent = names[i];
  drawThumbnailInto(tip.querySelector("canvas"), i, TIP_SIDE);
  const left = Math.min(x + 16, width - tip.offsetWidth - 6);
  const top = y + 18 + tip.offsetHeight < height ? y + 18 : y - 14 - tip.offsetHeight;
  tip.style.transform = `translate(${Math.max(6, left)}px, ${Math.max(6, top)}px)`;
}

function select(i) {
  selected = i;
  panel.hidden = i < 0;
  redraw();
  if (i < 0) return;
  drawThumbnailInto(byId("selected-image"), i, selectedSide());
  byId("name").textContent = names[i];
  byId("file").hidden = !fileUrl(i);
  byId("file").href = fileUrl(i) ?? "";
  byId("groups").replaceChildren(...groupings.flatMap(({ name, labels, groups }) => [
    createElement("dt", name), createElement("dd", labels[groups[i]], "name"),
  ]));
  byId("nearest").replaceChildren(...Array.from(neighborsOf(i), (neighbor, rank) =>
    createNeighborItem(neighbor, similarities[i * data.neighborsPerImage + rank])));
  panel.scrollTop = 0;
}

function createNeighborItem(neighbor, similarity) {
  const image = createElement("span"), thumbnail = createElement("canvas");
  drawThumbnailInto(thumbnail, neighbor, NEIGHBOR_SIDE);
  thumbnail.dataset.image = neighbor;
  image.append(thumbnail);
  const content = [image, createElement("span", names[neighbor], "name"), createElement("b", similarity.toFixed(3))];
  return createButtonItem(names[neighbor], content, () => {
    select(neighbor);
    flyTo(neighbor);
    byId("name").focus();
  });
}

// After a sheet was decoded.
function redrawPanelImages() {
  if (hovered >= 0) drawThumbnailInto(tip.querySelector("canvas"), hovered, TIP_SIDE);
  if (selected < 0) return;
  drawThumbnailInto(byId("selected-image"), selected, selectedSide());
  for (const thumbnail of byId("nearest").querySelectorAll("canvas")) {
    drawThumbnailInto(thumbnail, Number(thumbnail.dataset.image), NEIGHBOR_SIDE);
  }
}

function closePanel() {
  if (selected < 0) return;
  select(-1);
  canvas.focus({ preventScroll: true });
}

// Applies the search and the legend.
function filterImages() {
  const text = query.value.toLowerCase();
  matches = [];
  for (let i = 0; i < count; i++) {
    const group = grouping ? Math.min(grouping.groups[i], MAX_COLORED_GROUPS) : 0;
    const isShown = !shownGroups.size || shownGroups.has(group);
    isVisible[i] = (!text || lowerNames[i].includes(text)) && isShown ? 1 : 0;
    if (text && isVisible[i]) matches.push(i);
  }
  matchCount.textContent = text ? `${matches.length.toLocaleString("en")} of ${count.toLocaleString("en")}` : "";
  resetLevels();
  redraw();
}

function selectNextMatch() {
  if (!matches.length) return;
  const next = matches[(matches.indexOf(selected) + 1) % matches.length];
  select(next);
  flyTo(next);
}

function colorBy(name) {
  grouping = groupings.find((candidate) => candidate.name === name) ?? null;
  shownGroups.clear();
  const legend = byId("legend");
  legend.replaceChildren();
  if (grouping) {
    const { labels, counts } = grouping, otherCounts = counts.slice(MAX_COLORED_GROUPS);
    legend.append(...labels.slice(0, MAX_COLORED_GROUPS).map((label, i) => createLegendItem(i, label, counts[i])));
    const others = otherCounts.length === 1 ? labels[MAX_COLORED_GROUPS] : `${otherCounts.length} others`;
    const total = otherCounts.reduce((sum, images) => sum + images, 0);
    if (otherCounts.length) legend.append(createLegendItem(MAX_COLORED_GROUPS, others, total));
  }
  filterImages();
}

function createLegendItem(group, label, images) {
  const mark = createElement("i"), number = createElement("small", images.toLocaleString("en"));
  mark.style.background = `var(--group-${COLOR_NAMES[group]})`;
  const item = createButtonItem(label, [mark, createElement("span", label, "label name"), number], (button) => {
    if (!shownGroups.delete(group)) shownGroups.add(group);
    button.ariaPressed = shownGroups.has(group);
    filterImages();
  });
  item.firstChild.ariaPressed = false;
  return item;
}

query.addEventListener("input", filterImages);
query.addEventListener("keydown", (event) => {
  if (event.key === "Enter") selectNextMatch();
});
byId("close").addEventListener("click", closePanel);
byId("images").addEventListener("change", (event) => {
  showsThumbnails = event.target.checked;
  redraw();
});
byId("color").append(new Option("nothing", ""), ...groupings.map(({ name }) => new Option(name, name)));
byId("color").addEventListener("change", (event) => colorBy(event.target.value));
byId("color-by").hidden = !groupings.length;
