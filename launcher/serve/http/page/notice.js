// What stands above the page: how the connection is, which each event says anew, and what came of a button, which stays
// until it is read.
import {Refused} from './api.js';
import {$, setText, show} from './dom.js';

export function notice(text) {
  setText($('notice'), text);
  show($('notice'), text !== '');
}

export function say(text) {
  show($('said'), text !== '');
  setText($('said-text'), text);
}
export function sayError(error) {
  say(error instanceof Refused ? error.message : 'The server did not answer.');
}

$('said-close').addEventListener('click', () => say(''));
