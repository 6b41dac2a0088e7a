
// The page: what the reader gives goes in, what was found is shown. Texts of a package are
// put in as texts and never as markup.

const $ = (id) => document.getElementById(id);

// Left by file managers; no part of a package.
const STRAY = /(^|\/)(\.DS_Store|\._[^/]*|Thumbs\.db|desktop\.ini)$/;

const VERDICTS = {
  verified: ['Verified', 'Everything that can be checked here holds, with the key that you gave.'],
  unvouched: [
    'Holds together, signer not verified',
    'Everything that can be checked here holds, but only with the key that came with the package: whoever made the package could have made ' +
      'that key. Get the public key of the log from somewhere else and check again.',
  ],
  refused: ['Refused', 'Do not rely on this package. If it came from the operator of the log, keep it as evidence.'],
  unable: [
    'Nothing was checked',
    'This browser gives this page no Ed25519 in WebCrypto. Chrome and Edge have it since version 137, Firefox since 129, Safari since 17. ' +
      'Use one of these, or “palisade report verify”.',
  ],
};

// A text with everything spelled out that would turn or hide what is around it.
function plain(text) {
  const hidden = /[\p{Cc}\p{Zl}\p{Zp}\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]/gu;
  return String(text).replace(hidden, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = plain(text ?? '');
  if (kind) {
    made.className = kind;
  }
  return made;
}

function filled(parent, children) {
  parent.replaceChildren(...children);
  return parent;
}

// The files of a folder by their names in the package: the folder is where the sums are.
function packaged(list) {
  const files = Array.from(list).filter((file) => !STRAY.test(file.webkitRelativePath));
  const path = (file) => file.webkitRelativePath || file.name;
  const sums = files.map(path).filter((name) => name.split('/').pop() === SUMS);
  sums.sort((a, b) => a.split('/').length - b.split('/').length);
  if (sums.length === 0) {
    return { fault: 'There is no SHA256SUMS in this folder: choose the one that the package was unpacked into.' };
  }
  if (sums.length > 1) {
    return { fault: `There are ${sums.length} packages in this folder: choose the folder of one.` };
  }
  const base = sums[0].slice(0, -SUMS.length);
  const inside = files.filter((file) => path(file).startsWith(base));
  return { files: new Map(inside.map((file) => [path(file).slice(base.length), file])) };
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
  return { keys };
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

function shown(verdict, found) {
  const [title, words] = VERDICTS[verdict];
  $('result').hidden = false;
  $('verdict').className = verdict;
  $('title').textContent = title;
  $('words').textContent = words;
  const refusals = found?.refusals ?? [];
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
  $('title').focus();
}

function row(first, cells, kind) {
  const made = filled(element('tr', '', kind), cells.map((text, i) => element(i === 0 ? first : 'td', text)));
  made.firstChild.scope = 'row';
  return made;
}

const WORDS = { good: '✓ holds', bad: '✗ refused', open: '– not shown' };

function checkRow({ what, state, detail }) {
  return row('th', [what, WORDS[state], detail], state);
}

function fileRow({ name, bytes, why, sum }) {
  return row('th', [name, why ? `✗ ${why}` : '✓ as summed', bytes.toLocaleString('en'), sum ?? ''], why ? 'bad' : 'good');
}

async function verify() {
  fault('');
  $('result').hidden = true;
  const { files, fault: none } = packaged($('folder').files);
  if (none) {
    fault($('folder').files.length > 0 ? none : 'Choose the folder first.');
    return;
  }
  if (!(await isAble())) {
    shown('unable');
    return;
  }
  const { keys, fault: unusable } = await givenKeys();
  if (unusable) {
    fault(unusable);
    return;
  }
  const found = await examine(files, keys, told);
  const held = found.vouched ? 'verified' : 'unvouched';
  shown(found.refusals.length > 0 ? 'refused' : held, found);
}

$('verify').addEventListener('click', async () => {
  $('verify').disabled = true;
  try {
    await verify();
  } catch (error) {
    // Whatever happens, nothing looks as if it had been verified.
    fault(`The check could not be finished: ${error.message}`);
  } finally {
    told('');
    $('verify').disabled = false;
  }
});

// Key files go into the field, so that the reader sees which keys count.
$('keyfiles').addEventListener('change', async () => {
  const texts = await Promise.all(Array.from($('keyfiles').files, (file) => file.text()));
  const lines = [$('keys').value, ...texts].flatMap((text) => text.split('\n'));
  $('keys').value = [...new Set(lines.map((line) => line.trim()).filter((line) => line))].join('\n');
});

// What was found is of what was given then.
for (const id of ['folder', 'keys', 'keyfiles']) {
  $(id).addEventListener('input', () => {
    $('result').hidden = true;
  });
}
$('inert').hidden = true;
$('form').hidden = false;
