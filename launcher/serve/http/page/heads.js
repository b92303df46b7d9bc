// The heads map: a column a layer, a row a KV head; what each keeps, and which ranks hold it.
import {$, el, svg} from './dom.js';

const kCell = 12, kGap = 2, kLeft = 18, kTop = 12;

function wordsOf(layer, head, place) {
  const split = place.ranks.length > 1;
  const where = place.ranks.map(([rank, share]) => (split ? `rank ${rank}: ${Math.round(100 * share)} %` : `rank ${rank}`));
  const kind = place.retrieval ? (split ? 'retrieval, split' : 'retrieval') : 'streaming';
  return `layer ${layer}, KV head ${head}: ${kind}, ${where.join(', ')}`;
}

function cell(layer, head, place, world) {
  const x = kLeft + layer * (kCell + kGap), y = kTop + head * (kCell + kGap);
  const group = svg('g', {}, svg('title', {}, wordsOf(layer, head, place)));
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
  heads.forEach((row, layer) => row.forEach((place, head) => map.append(cell(layer, head, place, plan.world))));
  for (let head = 0; head < plan.kv_heads; ++head) {
    map.append(svg('text', {x: 2, y: kTop + head * (kCell + kGap) + 9}, String(head)));
  }
  $('heads').replaceChildren(map);
  map.style.maxWidth = `${Math.max(240, 2 * width)}px`;
  const split = heads.flat().filter((place) => place.ranks.length > 1).length;
  const key = (kind, text) => [el('span', {class: `key ${kind}`}), text];
  $('heads-words').replaceChildren(
      `${plan.layers} layers across, ${plan.kv_heads} KV heads down.`,
      ...key('retrieval', `${plan.retrieval_heads - split} keep every token`),
      ...(split > 0 ? key('split', `${split} do, split over ranks`) : []),
      ...key('streaming', `${plan.streaming_heads} keep the first ${plan.sink} and the last ${plan.recent}`));
}
