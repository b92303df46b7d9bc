// What prompts did not have to read, by where it was.
import {$, count, drawBar, el, facts, keep, makeBar, percent, setText} from './dom.js';

const kSources = {
  open: ['From the KV cache', ''],
  read: ['From a read under way', 'violet'],
  moved_out: ['From sessions that were moved out', 'grey'],
  saved: ['From disk', 'grey'],
};

export function showCache(state) {
  const {cache} = state;
  facts($('cache'), [
    ['prompts', count(cache.prompts)], ['hits', `${count(cache.hits)}, ${percent(cache.hits, cache.prompts)}`],
    ['places', count(cache.places)], ['dropped', count(cache.evictions)], ['fed again', count(cache.refed_tokens)],
  ]);
  const all = Object.values(cache.hit_tokens).reduce((sum, tokens) => sum + tokens, 0);
  keep($('cache-sources'), Object.entries(cache.hit_tokens), ([source]) => source,
       ([source]) => el('div', {}, el('div', {class: 'label'}, el('span', {}, kSources[source]?.[0] ?? source), el('span')), makeBar()),
       (row, [source, tokens]) => {
         const words = `${count(tokens)} tokens`;
         setText(row.firstElementChild.lastElementChild, words);
         drawBar(row.lastElementChild, [[all > 0 ? tokens / all : 0, kSources[source]?.[1] ?? '']], `${kSources[source]?.[0] ?? source}: ${words}`);
       });
}
