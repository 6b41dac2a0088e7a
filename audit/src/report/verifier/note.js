
// Signed notes (C2SP signed-note) with Ed25519: checkpoints (tlog-checkpoint), what a log
// states beside them, and cosignatures of witnesses (tlog-cosignature).

const OF_LOG = 1;
const OF_WITNESS = 4;
const NOTE_LEN_MAX = 16 * 1024;

// Base64 with padding, and in one way only.
function unbase64(text) {
  try {
    const decoded = atob(text);
    if (btoa(decoded) === text) {
      return Uint8Array.from(decoded, (c) => c.charCodeAt(0));
    }
  } catch {
    // Told below.
  }
  return null;
}

// Bytes as text, where they are UTF-8 and no mark stands before it.
function textOf(bytes) {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

const bytesOf = (text) => new TextEncoder().encode(text);

// A number as notes have it: without a sign, without zeros before it.
function decimal(text) {
  const number = Number(text);
  return /^(0|[1-9][0-9]*)$/.test(text) && Number.isSafeInteger(number) ? number : null;
}

// A public key in its text form, NAME+HASH+KEY.
class Key {
  // Reads one; throws Error in words where it is none.
  static async parse(text) {
    const parts = /^([^+\s]+)\+([0-9a-f]{8})\+(\S+)$/.exec(text.trim());
    const bytes = parts && unbase64(parts[3]);
    if (!bytes) {
      throw new Error('it is not a public key of the form NAME+HASH+KEY');
    }
    const [name, type] = [parts[1], bytes[0]];
    if ((type !== OF_LOG && type !== OF_WITNESS) || bytes.length !== 33) {
      throw new Error('it is not an Ed25519 key of a log (type 1) or of a witness (type 4)');
    }
    const id = (await sha256(bytesOf(`${name}\n`), bytes)).slice(0, 4);
    if (hex(id) !== parts[2]) {
      throw new Error('name and hash do not belong to the key: it was not copied whole');
    }
    const raw = bytes.slice(1);
    const key = await crypto.subtle.importKey('raw', raw, { name: 'Ed25519' }, false, ['verify']);
    return new Key(text.trim(), name, type, id, key);
  }

  constructor(text, name, type, id, key) {
    Object.assign(this, { text, name, type, id, key });
  }

  // Whether a signature line claims to be by this key.
  signed(line) {
    return line.name === this.name && same(line.id, this.id);
  }

  async verifies(signature, message) {
    return signature.length === 64 && crypto.subtle.verify({ name: 'Ed25519' }, this.key, signature, bytesOf(message));
  }
}

// Takes a note apart: its text, and its signature lines.
function noteOf(file, bytes) {
  const note = bytes.length <= NOTE_LEN_MAX ? textOf(bytes) : null;
  const end = note === null ? -1 : note.lastIndexOf('\n\n');
  if (end < 0 || !note.endsWith('\n') || /[\x00-\x09\x0b-\x1f\x7f]/.test(note)) {
    throw new Refused(file, 'it is not a signed note');
  }
  const lines = note.slice(end + 2, -1).split('\n').map((line) => {
    const parts = /^\u2014 (\S+) (\S+)$/.exec(line);
    const blob = parts && unbase64(parts[2]);
    if (!blob || blob.length < 5) {
      throw new Refused(file, 'a line of it is no signature');
    }
    return { name: parts[1], id: blob.slice(0, 4), signature: blob.slice(4) };
  });
  return { text: note.slice(0, end + 1), lines };
}

// The text of a note that one of these keys has signed, and which.
async function opened(file, bytes, keys) {
  const { text, lines } = noteOf(file, bytes);
  for (const key of keys) {
    const line = lines.find((one) => key.signed(one));
    if (line && !(await key.verifies(line.signature, text))) {
      throw new Refused(file, `its signature by ${key.name} does not verify`);
    }
    if (line) {
      return { text, key };
    }
  }
  const names = lines.map((line) => `${line.name} (key ${hex(line.id)})`);
  throw new Refused(file, `it is not signed with a key that you trust, but by ${names.join(', ')}`);
}

// A checkpoint that one of these keys has signed.
async function checkpointOf(file, bytes, keys) {
  const { text, key } = await opened(file, bytes, keys);
  const [origin, size, root, ...more] = text.slice(0, -1).split('\n');
  const time = more.map((line) => /^time ([0-9]+)$/.exec(line)).find((found) => found);
  const checkpoint = { origin, size: decimal(size ?? ''), root: unbase64(root ?? ''), key, note: bytes };
  if (origin !== key.name || checkpoint.size === null || checkpoint.root?.length !== 32 || !time) {
    throw new Refused(file, 'it is no checkpoint of the log that signed it');
  }
  checkpoint.time = moment(Number(time[1]) / 1000);
  return checkpoint;
}

// What a log states about an evidence package: facts by their names.
async function statementOf(file, bytes, keys) {
  const { text, key } = await opened(file, bytes, keys);
  const [head, log, subject, ...facts] = text.slice(0, -1).split('\n');
  if (head !== 'palisade statement v1' || log !== key.name || subject !== 'evidence') {
    throw new Refused(file, 'it is no statement about an evidence package');
  }
  const pairs = facts.map((line) => /^([^:]+): (.+)$/.exec(line));
  if (pairs.includes(null) || new Set(pairs.map((pair) => pair[1])).size !== pairs.length) {
    throw new Refused(file, 'a line of it is no fact');
  }
  return { key, facts: new Map(pairs.map((pair) => [pair[1], pair[2]])) };
}

// Who claims to have cosigned a note: by whom and when, and whether a key of ours shows it.
async function cosignaturesOf(file, bytes, witnesses) {
  const { text, lines } = noteOf(file, bytes);
  const all = [];
  for (const line of lines.filter((one) => one.signature.length === 72)) {
    const seconds = new DataView(line.signature.buffer, line.signature.byteOffset).getBigUint64(0);
    const key = witnesses.find((one) => one.signed(line));
    const message = `cosignature/v1\ntime ${seconds}\n${text}`;
    if (key && !(await key.verifies(line.signature.slice(8), message))) {
      throw new Refused(file, `the cosignature of ${key.name} does not verify`);
    }
    all.push({ name: line.name, time: moment(Number(seconds) * 1000), key });
  }
  return all;
}

// A moment as people read it, to the second, in UTC.
function moment(milliseconds) {
  const time = new Date(milliseconds);
  return Number.isNaN(time.getTime()) ? 'an unknown time' : `${time.toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

// A moment of RFC 3339, likewise.
const dated = (text) => moment(Date.parse(text));

// Whether this browser can do what is needed: the first test of RFC 8032, section 7.1.
async function isAble() {
  try {
    const bytes = (text) => Uint8Array.from(text.match(/../g), (byte) => parseInt(byte, 16));
    const key = bytes('d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a');
    const signature = bytes(
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155' +
        '5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
    );
    const name = { name: 'Ed25519' };
    const imported = await crypto.subtle.importKey('raw', key, name, false, ['verify']);
    const nothing = new Uint8Array();
    const right = await crypto.subtle.verify(name, imported, signature, nothing);
    return right && !(await crypto.subtle.verify(name, imported, signature, Uint8Array.of(1)));
  } catch {
    return false;
  }
}
