// KV cache by class of heads, and by rank.
import {$, bytes, drawBar, el, keep, makeBar, percent, setText} from './dom.js';

const kClasses = {
  retrieval: ['Retrieval heads, every token', ''],
  retrieval_split: ['Retrieval heads that are split over ranks', 'violet'],
  streaming: ['Streaming heads, constant size', 'grey'],
};

// Lines of a name, two sizes and a bar.
function drawBars(parent, lines) {
  keep(parent, lines, (line) => line.name,
       (line) => el('div', {}, el('div', {class: 'label'}, el('span', {}, line.name), el('span')), makeBar()),
       (row, line) => {
         setText(row.firstElementChild.lastElementChild, line.words);
         drawBar(row.lastElementChild, [[line.room > 0 ? line.used / line.room : 0, line.kind]],
                 `${line.name}: ${line.words}`);
       });
}

export function showMemory(state) {
  drawBars($('memory'), state.memory.filter((line) => line.room > 0).map((line) => ({
    name: kClasses[line.class]?.[0] ?? line.class,
    kind: kClasses[line.class]?.[1] ?? '',
    used: line.used, room: line.room,
    words: `${bytes(line.used)} of ${bytes(line.room)}, ${percent(line.used, line.room)}`,
  })));
  setText($('memory-plan'), state.plan.memory);
}

export function showRanks(state) {
  const {ranks, balance, world, strategy, experts, prefill_split: split} = state.plan;
  const placed = {split: ' Every rank has a part of each expert.', whole: ' Each expert lies whole on one rank.'};
  const most = Math.max(1, ...ranks.map((rank) => rank.kv_bytes));
  drawBars($('ranks'), ranks.map((rank, i) => ({
    name: `Rank ${i}`, kind: '', used: rank.kv_bytes, room: most,
    words: `${bytes(rank.kv_bytes)}, ${Number(rank.retrieval_heads.toFixed(2))} retrieval and ` +
        `${rank.streaming_heads} streaming heads`,
  })));
  setText(
      $('balance'),
      world === 1 ? 'One rank holds everything.' :
                    `The busiest rank over the mean, by the plan (${strategy}): time ${balance.time.toFixed(2)}, ` +
              `memory ${balance.memory.toFixed(2)}. 1 is perfect.${placed[experts] ?? ''}` +
              `${split === 'rows' ? ' Long prompts are shared out by rows.' : ''}`);
}
