// A question to a session, its answer as it is written.
import * as api from './api.js';
import {$, count, duration, el, keep, setText, show} from './dom.js';
import {forgetSources, markSources} from './sources.js';

let running = null;  // stops the answer that is being written

export function chooseSession(id) {
  $('ask-session').value = id;
  $('ask-text').focus();
}

export function showAnswerBox(state) {
  const chosen = $('ask-session').value;
  keep($('ask-session'), state.sessions, (session) => session.id,
       (session) => el('option', {value: session.id}, session.id), () => {});
  if (chosen !== '' && $('ask-session').value !== chosen && state.sessions.some((session) => session.id === chosen)) {
    $('ask-session').value = chosen;
  }
  show($('ask-sources-row'), state.server.sources);
  $('ask-go').disabled = running === null && state.sessions.length === 0;
}

function begin() {
  show($('answer'), true);
  show($('answer-note'), false);
  $('answer').className = 'answer';
  setText($('answer'), '');
  forgetSources();
  setText($('ask-go'), 'Stop');
}

function end(note) {
  running = null;
  setText($('ask-go'), 'Ask');
  setText($('answer-note'), note);
  show($('answer-note'), note !== '');
}

function noteOf(piece) {
  const {stats} = piece;
  const gap = stats.new_tokens > 1 ? `, then ${duration(stats.decode_seconds / (stats.new_tokens - 1))} a token` : '';
  return `${count(stats.new_tokens)} tokens behind ${count(stats.history_tokens)}, the first after ` +
      `${duration(stats.first_token_seconds)}${gap}; ended by ${piece.finish}`;
}

async function run(event) {
  event.preventDefault();
  if (running !== null) return running.abort();
  running = new AbortController();
  begin();
  const fields = {text: $('ask-text').value, max_new_tokens: Number($('ask-tokens').value)};
  if ($('ask-line').checked) fields.stop = ['\n'];
  const sources = $('ask-sources-row').hidden ? 0 : Number($('ask-sources').value);
  if (sources > 0) Object.assign(fields, {sources, token_sources: true});
  let note = '';
  const pieces = [];
  try {
    for await (const piece of api.ask($('ask-session').value, fields, running.signal)) {
      $('answer').append(piece.text);
      pieces.push([piece.text, piece.tokens.length]);
      if (!piece.done) continue;
      note = noteOf(piece);
      markSources($('answer'), pieces, piece);
    }
  } catch (error) {
    if (error.name === 'AbortError') {
      note = 'stopped';
    } else {
      $('answer').className = 'answer failed';
      $('answer').append(error instanceof api.Refused ? error.message : 'The connection broke.');
    }
  }
  end(note);
}

$('ask').addEventListener('submit', run);
$('ask-text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('ask').requestSubmit();
});
