
// The page: what the reader gives goes in, what was found is shown. Texts of a package are
// put in as texts and never as markup.

const $ = (id) => document.getElementById(id);

// Left by file managers; no part of a package.
const STRAY = /(^|\/)(\.DS_Store|\._[^/]*|Thumbs\.db|desktop\.ini)$/;

const VERDICTS = {
  verified: [
    'Verified',
    'Everything that can be checked here holds, with the key that you gave. It shows no more than where you have that key from: one that came ' +
      'with the package speaks for whoever made the package.',
  ],
  unvouched: [
    'Holds together, signer not verified',
    'Everything that can be checked here holds, but only with the key that came with the package: whoever made the package could have made ' +
      'that key. Get the public key of the log from somewhere else and check again.',
  ],
  refused: ['Refused', 'Do not rely on this package. If it came from the operator of the log, keep it as evidence.'],
  unfinished: [
    'Not finished',
    'Something could not be read or done here, which says nothing of the package. Nothing was verified: check again, or with “palisade report verify”.',
  ],
  unable: [
    'Nothing was checked',
    'This browser gives this page no Ed25519 in WebCrypto. Chrome and Edge have it since version 137, Firefox since 129, Safari since 17. ' +
      'Use one of these, or “palisade report verify”.',
  ],
};

// A text with everything spelled out that would turn or hide what is around it.
function plain(text) {
  const hidden = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
  return text.replace(hidden, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

function element(name, text = '', kind = '') {
  const made = document.createElement(name);
  made.textContent = plain(text);
  if (kind) {
    made.className = kind;
  }
  return made;
}

function filled(parent, children) {
  parent.replaceChildren(...children);
  return parent;
}

// The files of a folder by their names in the package. The folder itself is the package, with
// all that lies in it: whoever reads it reads that, too.
function packaged(list) {
  const name = (file) => file.webkitRelativePath.slice(file.webkitRelativePath.indexOf('/') + 1);
  const [passed, files] = [[], new Map()];
  for (const file of list) {
    if (STRAY.test(name(file))) {
      passed.push(name(file));
    } else {
      files.set(name(file), file);
    }
  }
  const fault = 'There is no SHA256SUMS in this folder itself: choose the one that the package was unpacked into, and no folder around it.';
  return files.has(SUMS) ? { files, passed } : { fault };
}

// The keys that the reader gives, one on each line.
async function givenKeys() {
  const keys = [];
  for (const line of $('keys').value.split('\n').map((one) => one.trim()).filter((one) => one)) {
    try {
      keys.push(await Key.parse(line));
    } catch (error) {
      return { fault: `The key “${line}” cannot be used: ${error.message}.` };
    }
  }
  // One that is given twice is one, and counts once.
  const once = keys.filter((key, i) => keys.findIndex((other) => other.text === key.text) === i);
  const witnesses = once.filter((key) => key.type === OF_WITNESS).length;
  const asked = $('quorum').value.trim();
  const quorum = asked === '' ? witnesses : Number(asked);
  if (!/^[0-9]{0,6}$/.test(asked) || quorum > witnesses || (witnesses > 0 && quorum < 1)) {
    return { fault: `Of the ${witnesses} witnesses whose keys you gave, “${asked}” cannot be the number that has to have cosigned: 1 to ${witnesses}, or nothing for all.` };
  }
  return { keys: once, quorum };
}

// What is to be said beside the verdict of the witnesses that were asked for.
function ofWitnesses({ had, of, asked, without }) {
  const all = had === of ? '' : ` ${without} has not; you asked for at least ${asked}.`;
  return ` ${had} of the ${of} witnesses whose keys you gave have cosigned this log.${all}`;
}

function told(text, at, of) {
  $('progress').hidden = !text;
  $('said').textContent = text ? `${text}: ${Math.floor((100 * at) / of)} %` : '';
  $('bar').value = of > 0 ? at / of : 0;
}

function fault(text) {
  $('fault').hidden = !text;
  $('fault').textContent = plain(text ?? '');
}

// Takes away what was found, so that nothing of it stands beside what is found next.
function cleared() {
  $('result').hidden = true;
  $('verdict').className = '';
  for (const id of ['title', 'words', 'refusals', 'facts', 'checks', 'unchecked', 'files', 'count']) {
    $(id).replaceChildren();
  }
}

// Nothing is to be seen before all of it is there.
function shown(verdict, found) {
  const [title, said] = VERDICTS[verdict];
  const words = found?.cosigned ? said + ofWitnesses(found.cosigned) : said;
  $('verdict').className = verdict;
  $('title').textContent = title;
  $('words').textContent = words;
  const refusals = found ? [...found.refusals, ...found.unread] : [];
  filled($('refusals'), refusals.map(({ file, why }) => filled(element('li'), [element('code', file), element('span', `: ${why}`)])));
  $('refusals').hidden = refusals.length === 0;
  $('details').hidden = !found;
  if (found) {
    filled($('facts'), found.facts.map(([name, value]) => row('th', [name, value])));
    filled($('checks'), found.checks.map(checkRow));
    filled($('unchecked'), found.unchecked.map((text) => element('li', text)));
    filled($('files'), found.files.map(fileRow));
    $('count').textContent = `${found.files.length} files`;
  }
  $('result').hidden = false;
  $('title').focus();
}

function row(first, cells, kind) {
  const made = filled(element('tr', '', kind), cells.map((text, i) => element(i === 0 ? first : 'td', text)));
  made.firstChild.scope = 'row';
  return made;
}

const WORDS = { good: '✓ holds', bad: '✗ refused', open: '– not shown', unread: '– not read' };

function checkRow({ what, state, detail }) {
  return row('th', [what, WORDS[state], detail], state);
}

function fileRow({ name, bytes, why, state, sum }) {
  const said = { good: '✓ as summed', bad: `✗ ${why}`, unread: `– ${why}` };
  return row('th', [name, said[state], bytes.toLocaleString('en'), sum ?? ''], state);
}

async function verify() {
  fault('');
  cleared();
  const { files, passed, fault: none } = packaged($('folder').files);
  if (none) {
    fault($('folder').files.length > 0 ? none : 'Choose the folder first.');
    return;
  }
  if (!(await isAble())) {
    shown('unable');
    return;
  }
  const { keys, quorum, fault: unusable } = await givenKeys();
  if (unusable) {
    fault(unusable);
    return;
  }
  const found = await examine({ files, passed }, { keys, quorum }, told);
  const held = found.vouched ? 'verified' : 'unvouched';
  const ended = found.unread.length > 0 ? 'unfinished' : held;
  shown(found.refusals.length > 0 ? 'refused' : ended, found);
}

const GIVEN = ['folder', 'keys', 'keyfiles', 'quorum'];

// Does work during which nothing that was given can be changed: what comes of it is of that.
async function alone(work) {
  const all = [...GIVEN, 'verify'].map($);
  all.forEach((field) => { field.disabled = true; });
  try {
    await work();
  } catch (error) {
    // Whatever happens, nothing looks as if it had been verified.
    cleared();
    fault(`The check could not be finished: ${error.message}`);
  } finally {
    told('');
    all.forEach((field) => { field.disabled = false; });
  }
}

$('verify').addEventListener('click', () => alone(verify));

// Key files go into the field, so that the reader sees which keys count.
$('keyfiles').addEventListener('change', () => alone(async () => {
  const texts = await Promise.all(Array.from($('keyfiles').files, (file) => file.text()));
  const lines = [$('keys').value, ...texts].flatMap((text) => text.split('\n'));
  $('keys').value = [...new Set(lines.map((line) => line.trim()).filter((line) => line))].join('\n');
}));

// What was found is of what was given then.
for (const id of GIVEN) {
  $(id).addEventListener('input', cleared);
}
$('inert').hidden = true;
$('form').hidden = false;
