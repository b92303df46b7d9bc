// What runs and waits, with its age, and what was refused, in the server's own sentences.
import {$, count, duration, el, facts, keep, setText} from './dom.js';

const kLines = 12;  // at most, of calls and of refusals
const kVerbs = {Ask: 'answers on', Append: 'reads into'};

export function showCalls(state) {
  const {engine, totals, calls} = state;
  facts($('work'), [
    ['running', count(engine.running)], ['waiting', count(engine.waiting)], ['calls', count(engine.calls)],
    ['answered', count(totals.answered)], ['refused', count(totals.refused)],
  ]);
  const lines = calls.slice(0, kLines);
  if (calls.length > kLines) lines.push({number: 'more', more: calls.length - kLines});
  keep(
      $('calls'), lines, (call) => call.number, () => el('li', {}, el('span', {class: 'when'}), ' ', el('span')),
      (line, call) => {
        if (call.more) return setText(line.lastElementChild, `and ${count(call.more)} more`);
        setText(line.firstElementChild, duration(call.age_seconds));
        const whose = state.caller.everybody && call.owner !== 'default' ? ` for ${call.owner}` : '';
        setText(
            line.lastElementChild, `${kVerbs[call.method] ?? call.method} ${call.session || 'a lone prompt'}${whose}`);
      });
}

export function showRefused(state) {
  const none = state.refused.length === 0;
  keep(
      $('refused'), none ? [{number: 'none'}] : state.refused.slice(0, kLines), (one) => one.number,
      () => el('li', {}, el('span', {class: 'when'}), ' ', el('span', {class: 'code'}), ' ', el('span')),
      (line, one) => {
        const [when, code, text] = line.children;
        setText(when, none ? '' : `${duration(one.age_seconds)} ago`);
        setText(code, none ? '' : `${one.method} ${one.code}`);
        setText(text, none ? 'None.' : one.message);
      });
}
