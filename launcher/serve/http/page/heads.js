// The heads map: a column a layer, a row a KV head; what each keeps, and which ranks hold it.
import {$, el, setText, show, svg} from './dom.js';

const kCell = 12, kGap = 2, kLeft = 18, kTop = 12;
const cells = new Map();  // "layer,head" to its group, words and kind
let shown = '';           // of which attention the cells tell

const shareOf = (known) => known.text ?? known.kept;
const percent = (share) => `${Math.round(100 * share)} %`;

function wordsOf(layer, head, place) {
  const split = place.ranks.length > 1;
  const where = place.ranks.map(([rank, share]) => (split ? `rank ${rank}: ${Math.round(100 * share)} %` : `rank ${rank}`));
  const kind = place.retrieval ? (split ? 'retrieval, split' : 'retrieval') : 'streaming';
  return `layer ${layer}, KV head ${head}: ${kind}, ${where.join(', ')}`;
}

function cell(layer, head, place, world) {
  const x = kLeft + layer * (kCell + kGap), y = kTop + head * (kCell + kGap);
  const words = wordsOf(layer, head, place), group = svg('g', {}, svg('title', {}, words));
  cells.set(`${layer},${head}`, {group, words, x, y, kind: place.ranks.length > 1 ? 'split' : 'retrieval'});
  let from = 0;
  for (const [, share] of place.ranks) {
    const kind = place.retrieval ? (place.ranks.length > 1 ? 'split' : 'retrieval') : 'streaming';
    group.append(svg('rect', {x: x + kCell * from, y, width: Math.max(0.5, kCell * share - (share < 1 ? 0.6 : 0)), height: kCell,
                              rx: 1.5, class: kind}));
    from += share;
  }
  if (world > 1 && place.ranks.length === 1) {
    group.append(svg('text', {x: x + kCell / 2, y: y + 8.6, class: place.retrieval ? 'rank' : 'rank dark'},
                     String(place.ranks[0][0])));
  }
  return group;
}

export function showHeads(state) {
  const {heads, plan} = state;
  const width = kLeft + plan.layers * (kCell + kGap), height = kTop + plan.kv_heads * (kCell + kGap);
  const map = svg('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img', preserveAspectRatio: 'xMinYMin meet',
                          'aria-label': `${plan.layers} layers of ${plan.kv_heads} KV heads: ${plan.retrieval_heads} ` +
                              `retrieval, ${plan.streaming_heads} streaming`});
  for (let layer = 0; layer < plan.layers; layer += plan.layers > 40 ? 8 : 4) {
    map.append(svg('text', {x: kLeft + layer * (kCell + kGap), y: 9}, String(layer)));
  }
  cells.clear();
  heads.forEach((row, layer) => row.forEach((place, head) => map.append(cell(layer, head, place, plan.world))));
  for (let head = 0; head < plan.kv_heads; ++head) {
    map.append(svg('text', {x: 2, y: kTop + head * (kCell + kGap) + 9}, String(head)));
  }
  $('heads').replaceChildren(map);
  shown = '';
  map.style.maxWidth = `${Math.max(240, 2 * width)}px`;
  const split = heads.flat().filter((place) => place.ranks.length > 1).length;
  const key = (kind, text) => [el('span', {class: `key ${kind}`}), text];
  $('heads-words').replaceChildren(
      `${plan.layers} layers across, ${plan.kv_heads} KV heads down.`,
      ...key('retrieval', `${plan.retrieval_heads - split} keep every token`),
      ...(split > 0 ? key('split', `${split} do, split over ranks`) : []),
      ...key('streaming', `${plan.streaming_heads} keep the first ${plan.sink} and the last ${plan.recent}`));
}

function fillCell({group, words, x, y, kind}, known) {
  const said = [words], share = shareOf(known);
  if (known.weight !== undefined) said.push(`${percent(known.weight)} of what sources are read from`);
  if (known.text !== undefined) said.push(`${percent(known.text)} of its attention on the text when an answer begins`);
  if (known.kept !== undefined) said.push(`sparse reading kept ${percent(known.kept)} of its attention`);
  group.querySelector('title').textContent = said.join('; ');
  group.querySelector('.share')?.remove();
  group.setAttribute('class', share === undefined ? '' : 'known');
  if (share === undefined) return;
  const height = kCell * Math.min(1, share);
  group.insertBefore(svg('rect', {x, y: y + kCell - height, width: kCell, height, rx: 1.5, class: `${kind} share`}),
                     group.querySelector('text'));
}

function sayMost(list, of, words) {
  const known = list.filter((one) => one[of] !== undefined);
  if (known.length === 0) return '';
  const by = (better) => known.reduce((a, b) => (better(b[of], a[of]) ? b : a));
  const most = by((a, b) => a > b), least = by((a, b) => a < b);
  const end = (one) => `layer ${one.layer}, head ${one.head} with ${percent(one[of])}`;
  if (percent(most[of]) === percent(least[of])) return `${words} All have ${percent(most[of])}.`;
  return `${words} Most has ${end(most)}, least ${end(least)}.`;
}

// Shares of attention, where something is known of them: cells are filled by them, and the ends are said.
export function showAttention(state) {
  const text = JSON.stringify(state.attention);
  if (text === shown || cells.size === 0) return;
  shown = text;
  const known = new Map(state.attention.map((one) => [`${one.layer},${one.head}`, one]));
  for (const [where, cell] of cells) fillCell(cell, known.get(where) ?? {});
  const said = [
    sayMost(
        state.attention, 'text',
        'Outlined heads are filled by the share of attention that they have on the session\u2019s text when an answer with sources begins.'),
    sayMost(state.attention, 'kept', 'Of attention, sparse reading of the open sessions kept:')
  ];
  setText($('heads-shares'), said.filter((one) => one !== '').join(' '));
  show($('heads-shares'), said.some((one) => one !== ''));
}
