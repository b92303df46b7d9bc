// Where an answer looked: its pieces are marked with the number of the sentence that each looked at most, and the
// sentences are listed below. Attention provenance, no proof.
import {$, count, el, setText, show} from './dom.js';

const same = (a, b) => a.start === b.start && a.end === b.end;

export function forgetSources() {
  $('answer-sources').replaceChildren();
  show($('answer-looked'), false);
}

function item(source, number) {
  return el('li', {id: `source-${number}`, tabindex: '-1'},
            el('span', {class: 'when'}, `line ${count(source.line)}, ${Math.round(100 * source.score)} %`), ' ', source.text.trim());
}

// The number of the listed source that these tokens looked at most; 0: at none of them.
function numberOf(tokens, listed) {
  const scores = listed.map(() => 0);
  for (const sources of tokens) {
    const at = sources.length > 0 ? listed.findIndex((source) => same(source, sources[0])) : -1;
    if (at >= 0) scores[at] += sources[0].score;
  }
  const best = Math.max(...scores);
  return best > 0 ? 1 + scores.indexOf(best) : 0;
}

// pieces: [text, tokens], the answer as it came. told: its last message. The answer's text stays what it was.
export function markSources(answer, pieces, told) {
  const listed = told.provenance ?? [];
  if (listed.length === 0) return;
  $('answer-sources').replaceChildren(...listed.map((source, i) => item(source, i + 1)));
  show($('answer-looked'), true);
  const runs = [];  // [number, text], neighbours with one number together
  let at = 0;
  for (const [text, tokens] of pieces) {
    const number = numberOf((told.token_provenance ?? []).slice(at, at + tokens), listed);
    at += tokens;
    if (runs.length > 0 && runs[runs.length - 1][0] === number) runs[runs.length - 1][1] += text;
    else runs.push([number, text]);
  }
  answer.replaceChildren(...runs.map(([number, text]) => (number === 0 || text.trim() === '' ? text :
      el('mark', {}, text, el('a', {href: `#source-${number}`, class: 'number', 'data-number': number, 'aria-label': `source ${number}`})))));
  setText($('answer-looked-words'), listed.length === 1 ? 'The sentence that it looked at most, which proves nothing:' :
      'The sentences that it looked at most, which proves nothing:');
}
