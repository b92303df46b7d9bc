// Sparklines: rates from the counters of one event to the next, and times of the last answers.
import {$, count, duration, el, keep, setText, svg} from './dom.js';

const kKept = 120;  // events, one a second
const rates = {read: [], written: []};
let last = null;

function remember(state) {
  const {uptime_seconds: up} = state.server;
  const {prefill_tokens: read, decode_tokens: written} = state.engine;
  if (last !== null && up > last.up && read >= last.read) {
    for (const [name, gained] of [['read', read - last.read], ['written', written - last.written]]) {
      rates[name].push(gained / (up - last.up));
      if (rates[name].length > kKept) rates[name].shift();
    }
  }
  last = {up, read, written};
}

// "M0,20 L1,3 .." over a box of `length` x 24.
function pathOf(values, most, length) {
  return values.map((value, i) => `${i === 0 ? 'M' : 'L'}${i},${(23 - (22 * value) / most).toFixed(1)}`).join(' ') +
      (values.length === 1 ? ` L${length},${(23 - (22 * values[0]) / most).toFixed(1)}` : '');
}

function make(chart) {
  return el('figure', {}, el('figcaption', {}, chart.name, el('b')),
            svg('svg', {role: 'img', preserveAspectRatio: 'none'}, svg('line', {y1: 23.5, y2: 23.5}), svg('path')));
}

function update(figure, {name, values, words}) {
  const [caption, drawing] = figure.children;
  const length = Math.max(1, values.length - 1);
  const now = values.length > 0 ? words(values[values.length - 1]) : '';
  setText(caption.lastElementChild, now === '' ? 'none yet' : now);
  drawing.setAttribute('viewBox', `0 0 ${length} 24`);
  drawing.setAttribute('aria-label', `${name}: ${now}`);
  drawing.firstElementChild.setAttribute('x2', length);
  drawing.lastElementChild.setAttribute('d', pathOf(values, Math.max(...values, 1e-9), length));
}

export function showCharts(state) {
  remember(state);
  const perSecond = (rate) => `${count(rate)} /s`;
  keep($('charts'), [
    {name: 'read', values: rates.read, words: perSecond},
    {name: 'written', values: rates.written, words: perSecond},
    {name: 'first token', values: state.answers.map((answer) => answer.first_token_seconds), words: duration},
    {name: 'gap', values: state.answers.map((answer) => answer.token_seconds).filter((gap) => gap > 0), words: duration},
  ], (chart) => chart.name, make, update);
}
