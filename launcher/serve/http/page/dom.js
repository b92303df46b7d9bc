// Elements, and the words for numbers. Text is only ever set as text: nothing of the server's is read as markup.

export const $ = (id) => document.getElementById(id);

const kSvg = 'http://www.w3.org/2000/svg';

// el('li', {class: 'x'}, 'text', child, ..); attributes that are false or null are left out.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(kSvg, tag), attributes, children);
}
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Sets only what differs, so that a selection and what a screen reader is at stay where they are.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

// Children of `parent` made to be one for each item, in its order: kept by key, made once, updated every time.
export function keep(parent, items, keyOf, make, update) {
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = there.get(key);
    if (child === undefined) {
      child = make(item);
      child.dataset.key = key;
    }
    there.delete(key);
    if (child === before) before = before.nextElementSibling;
    else parent.insertBefore(child, before);
    update(child, item);
  }
  for (const child of there.values()) child.remove();
}

// A list of terms: [['model', 'needle-6m'], ..].
export function facts(parent, pairs) {
  keep(parent, pairs, (pair) => pair[0],
       (pair) => el('div', {}, el('dt', {}, pair[0]), el('dd')),
       (child, pair) => setText(child.lastElementChild, pair[1]));
}

// A bar with parts, [share of 1, class]; `words` is what it says.
export function drawBar(bar, parts, words) {
  while (bar.children.length < parts.length) bar.append(el('i'));
  while (bar.children.length > parts.length) bar.lastElementChild.remove();
  let from = 0;
  parts.forEach(([share, kind], i) => {
    const part = bar.children[i];
    part.className = kind;
    part.style.left = `${100 * from}%`;
    part.style.width = `${100 * Math.max(0, Math.min(1 - from, share))}%`;
    from += share;
  });
  bar.setAttribute('aria-label', words);
}
export const makeBar = () => el('div', {class: 'bar', role: 'img'});

export const count = (n) => Math.round(n).toLocaleString('en-US');
export function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (n >= 999.5 && unit + 1 < units.length) {
    n /= 1000;
    ++unit;
  }
  return `${n >= 99.95 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
}
// Rounded first and then cut into units, or a minute would have 60 s.
export function duration(seconds) {
  const milliseconds = Math.round(1000 * seconds);
  if (milliseconds < 1) return '0 s';
  if (milliseconds < 1000) return `${milliseconds} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}
export const percent = (part, whole) => (whole > 0 ? `${Math.round((100 * part) / whole)} %` : '0 %');
