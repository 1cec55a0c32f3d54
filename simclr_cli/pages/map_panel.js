// What stands over the map: the name under the pointer, the chosen image, the search, the legend. Text only as text.

const tip = byId("tip"), panel = byId("panel"), query = byId("query"), found = byId("found");
const TIP = 144, SMALL = 52; // px of thumbnails
const shownSide = () => (panel.offsetWidth < width ? 192 : 112); // less where the panel covers the map
const only = new Set(); // groups that the legend leaves lit; none: all
const folded = names.map((name) => name.toLowerCase()); // for the search
let matches = [];

function element(kind, text = "", className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A button in a list, with what it does.
function itemButton(title, content, act) {
  const item = element("li"), button = element("button");
  button.title = title;
  button.append(...content);
  button.addEventListener("click", () => act(button));
  item.append(button);
  return item;
}

function hover(i, x, y) {
  if (i !== over) redraw();
  over = i;
  canvas.classList.toggle("over", i >= 0);
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.querySelector("span").textContent = names[i];
  drawInto(tip.querySelector("canvas"), i, TIP);
  const left = Math.min(x + 16, width - tip.offsetWidth - 6);
  const top = y + 18 + tip.offsetHeight < height ? y + 18 : y - 14 - tip.offsetHeight;
  tip.style.transform = `translate(${Math.max(6, left)}px, ${Math.max(6, top)}px)`;
}

function choose(i) {
  chosen = i;
  panel.hidden = i < 0;
  redraw();
  if (i < 0) return;
  drawInto(byId("shown"), i, shownSide());
  byId("name").textContent = names[i];
  byId("file").hidden = !address(i);
  byId("file").href = address(i) ?? "";
  byId("groups").replaceChildren(...groupings.flatMap((grouping) => [
    element("dt", grouping.name), element("dd", grouping.labels[grouping.which[i]], "name"),
  ]));
  byId("nearest").replaceChildren(...Array.from(nearestOf(i), (other, rank) => {
    const image = element("span"), small = element("canvas");
    drawInto(small, other, SMALL);
    small.dataset.image = other;
    image.append(small);
    const similarity = element("b", similarities[i * data.nearest + rank].toFixed(3));
    return itemButton(names[other], [image, element("span", names[other], "name"), similarity], () => {
      choose(other);
      bring(other);
      byId("name").focus();
    });
  }));
  panel.scrollTop = 0;
}

// After a sheet has come: whatever waits for its images.
function refreshImages() {
  if (over >= 0) drawInto(tip.querySelector("canvas"), over, TIP);
  if (chosen < 0) return;
  drawInto(byId("shown"), chosen, shownSide());
  for (const small of byId("nearest").querySelectorAll("canvas")) drawInto(small, Number(small.dataset.image), SMALL);
}

function closePanel() {
  if (chosen < 0) return;
  choose(-1);
  canvas.focus({ preventScroll: true });
}

// What the search and the legend leave lit.
function light() {
  const text = query.value.toLowerCase();
  matches = [];
  for (let i = 0; i < count; i++) {
    const group = grouping ? Math.min(grouping.which[i], MOST_GROUPS) : 0;
    lit[i] = (!text || folded[i].includes(text)) && (!only.size || only.has(group)) ? 1 : 0;
    if (text && lit[i]) matches.push(i);
  }
  found.textContent = text ? `${matches.length.toLocaleString("en")} of ${count.toLocaleString("en")}` : "";
  forgetSpread();
  redraw();
}

// From match to match.
function goOn() {
  if (!matches.length) return;
  const next = matches[(matches.indexOf(chosen) + 1) % matches.length];
  choose(next);
  bring(next);
}

function colorBy(name) {
  grouping = groupings.find((each) => each.name === name) ?? null;
  only.clear();
  const legend = byId("legend");
  legend.replaceChildren();
  if (grouping) {
    const labels = grouping.labels.slice(0, MOST_GROUPS), rest = grouping.counts.slice(MOST_GROUPS);
    legend.append(...labels.map((label, group) => legendItem(group, label, grouping.counts[group])));
    const name = rest.length === 1 ? grouping.labels[MOST_GROUPS] : `${rest.length} others`;
    if (rest.length) legend.append(legendItem(MOST_GROUPS, name, rest.reduce((sum, more) => sum + more)));
  }
  light();
}

function legendItem(group, label, images) {
  const mark = element("i"), number = element("small", images.toLocaleString("en"));
  mark.style.background = `var(--group-${GROUPS[group]})`;
  const item = itemButton(label, [mark, element("span", label, "label name"), number], (button) => {
    if (!only.delete(group)) only.add(group);
    button.ariaPressed = only.has(group);
    light();
  });
  item.firstChild.ariaPressed = false;
  return item;
}

query.addEventListener("input", light);
query.addEventListener("keydown", (event) => {
  if (event.key === "Enter") goOn();
});
byId("close").addEventListener("click", closePanel);
byId("images").addEventListener("change", (event) => {
  withImages = event.target.checked;
  redraw();
});
byId("color").append(new Option("nothing", ""), ...groupings.map(({ name }) => new Option(name, name)));
byId("color").addEventListener("change", (event) => colorBy(event.target.value));
byId("color-by").hidden = !groupings.length;
