
// An evidence package as it lies unpacked: what is checked of it, in which order, and what
// is not.

const SUMS = 'SHA256SUMS';
const NOTE = 'SHA256SUMS.note';
const CHECKPOINT = 'checkpoint';
const KEY = 'checkpoint.pub';
const COSIGNED = 'cosigned';
const CONSISTENCY = 'cosigned.consistency';
const PROOFS = 'records/proofs.jsonl';
const IN_FORCE = 'records/in-force.jsonl';
const ROWS = 'records/records.jsonl';
const REPORT = 'report/report.json';
// The files that are read, and not only summed.
const READ = [SUMS, NOTE, CHECKPOINT, KEY, COSIGNED, CONSISTENCY, PROOFS, IN_FORCE, ROWS, REPORT];
// How often progress is told, in records.
const STEP = 250;

// What was found.
class Findings {
  constructor() {
    this.checks = [];
    this.refusals = [];
    this.unread = [];
    this.files = [];
    this.facts = [];
    this.unchecked = [];
    this.vouched = false;
    // Who of the witnesses whose keys were given has cosigned; null where none was given.
    this.cosigned = null;
  }

  // Does a part of the work, which answers with what it has shown, or why that is nothing.
  async check(what, work) {
    try {
      const shown = await work();
      const nothing = shown instanceof Nothing;
      this.checks.push({ what, state: nothing ? 'open' : 'good', detail: nothing ? shown.why : shown });
    } catch (error) {
      const all = [error, ...(error.also ?? [])];
      all.forEach((one) => this.told(what, one));
      const more = all.length > 1 ? `, and ${all.length - 1} more` : '';
      const state = all.some((one) => one instanceof Refused) ? 'bad' : 'unread';
      this.checks.push({ what, state, detail: `${error.file ?? what}: ${error.message}${more}` });
    }
  }

  // Only what the package has to answer for is a refusal. Whatever else went wrong stands
  // beside it, hides no refusal, and lets nothing pass as verified.
  told(what, error) {
    const list = error instanceof Refused ? this.refusals : this.unread;
    const one = { file: error.file ?? what, why: error.message };
    if (!list.some(({ file, why }) => file === one.file && why === one.why)) {
      list.push(one);
    }
  }
}

// That a part of the work has shown nothing.
class Nothing {
  constructor(why) {
    this.why = why;
  }
}

// Checks a package: `files` by their names, with keys that the reader trusts, of whose witnesses
// at least `quorum` have to have cosigned; `passed` are the names of those that are no part of it.
async function examine({ files, passed }, { keys, quorum }, tell) {
  const found = new Findings();
  const it = { files, passed, kept: new Map(), trusted: keys.filter((key) => key.type === OF_LOG) };
  it.witnesses = keys.filter((key) => key.type === OF_WITNESS);
  it.quorum = quorum;
  found.vouched = it.trusted.length > 0;
  await found.check('The key', () => keyed(it, found));
  await found.check('The signature over the sums', () => stated(it, found));
  await found.check('The sum of every file', () => summed(it, found, tell));
  await found.check('The checkpoint', () => checkpointed(it, found));
  await found.check('The report belongs to it', () => reported(it, found));
  await found.check('Every record is in the log', () => proven(it, tell));
  await found.check('Witnesses', () => witnessed(it, found));
  await found.check('Policies are named by their sum', () => named(found));
  found.unchecked = remaining(it, found);
  return found;
}

// The content of a file.
async function contentOf(it, name) {
  if (!it.kept.has(name)) {
    const file = it.files.get(name);
    if (!file) {
      throw new Refused(name, 'it is missing');
    }
    let bytes;
    try {
      bytes = new Uint8Array(await file.arrayBuffer());
    } catch (error) {
      throw new Unread(name, `it could not be read here: ${error.message}`);
    }
    if (!READ.includes(name)) {
      return bytes;
    }
    it.kept.set(name, bytes);
  }
  return it.kept.get(name);
}

// The lines of a text, of which the last one has to end.
async function linesIn(it, name) {
  const lines = (await textIn(it, name)).split('\n');
  if (lines.pop() !== '') {
    throw new Refused(name, 'its last line does not end');
  }
  return lines;
}

async function textIn(it, name) {
  const text = textOf(await contentOf(it, name));
  if (text === null) {
    throw new Refused(name, 'it is not UTF-8');
  }
  return text;
}

// Which key counts: the reader's, or else what the package says of itself.
async function keyed(it, found) {
  const claimed = (await textIn(it, KEY)).trim();
  if (!found.vouched) {
    const key = await Key.parse(claimed).catch((error) => {
      throw new Refused(KEY, error.message);
    });
    if (key.type !== OF_LOG) {
      throw new Refused(KEY, 'it is the key of a witness, and of no log');
    }
    it.trusted = [key];
    found.facts.push(['key', `${claimed}, which the package itself names`]);
    return new Nothing('you gave no key of a log: the one in the package was taken');
  }
  const one = it.trusted.find((key) => key.text === claimed);
  if (!one) {
    throw new Refused(KEY, `it is another key than you gave: ${claimed}`);
  }
  // A package is of one log: no part of it may be by another, whoever else is trusted.
  it.trusted = [one];
  found.facts.push(['key', `${claimed}, which you gave`]);
  return 'the package names the key that you gave';
}

async function stated(it, found) {
  const { key, facts } = await statementOf(NOTE, await contentOf(it, NOTE), it.trusted);
  const sums = await contentOf(it, SUMS);
  if (facts.get('sha256sums') !== hex(await sha256(sums))) {
    throw new Refused(SUMS, 'it is not what was signed');
  }
  it.facts = facts;
  found.facts.push(['log', key.name], ['packed and signed', dated(facts.get('time'))]);
  return `${SUMS} is what ${key.name} signed`;
}

// Compares every file with its sum; every one that is wrong is named.
async function summed(it, found, tell) {
  const sums = new Map();
  for (const line of await linesIn(it, SUMS)) {
    const parts = /^([0-9a-f]{64}) {2}([A-Za-z0-9_-][A-Za-z0-9._-]*(?:\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)$/.exec(line);
    if (!parts || sums.has(parts[2])) {
      throw new Refused(SUMS, 'a line is no sum and name');
    }
    sums.set(parts[2], parts[1]);
  }
  const names = [...new Set([...sums.keys(), ...it.files.keys()])].sort();
  const due = names.filter((name) => name !== SUMS && name !== NOTE);
  const wrong = [];
  for (const [i, name] of due.entries()) {
    tell('Sums of files', i, due.length);
    const file = { name, bytes: it.files.get(name)?.size ?? 0, why: null, state: 'good', sum: null };
    try {
      if (!sums.has(name)) {
        throw new Refused(name, 'no sum speaks for it: it was added');
      }
      file.sum = hex(await sha256(await contentOf(it, name)));
      if (file.sum !== sums.get(name)) {
        throw new Refused(name, 'its sum is not the one that stands in SHA256SUMS: it was changed');
      }
    } catch (error) {
      file.why = error.message;
      file.state = error instanceof Refused ? 'bad' : 'unread';
      wrong.push(error);
    }
    found.files.push(file);
  }
  if (wrong.length > 0) {
    throw Object.assign(wrong[0], { also: wrong.slice(1) });
  }
  const strays = it.passed.length > 0 ? ` but the ${it.passed.length} that were passed over` : '';
  const counted = `${due.length} files, each as it was summed; none is missing and none was added${strays}`;
  return it.facts ? counted : new Nothing(`${counted}; but the sums are not shown to be signed`);
}

async function checkpointed(it, found) {
  const checkpoint = await checkpointOf(CHECKPOINT, await contentOf(it, CHECKPOINT), it.trusted);
  const { size, time, key } = checkpoint;
  if (it.facts && it.facts.get('checkpoint') !== String(size)) {
    throw new Refused(CHECKPOINT, 'it is another one than the statement over the sums names');
  }
  it.checkpoint = checkpoint;
  found.facts.push(['checkpoint', `${size.toLocaleString('en')} records, signed ${time}`]);
  return `${size.toLocaleString('en')} records under one root, signed by ${key.name} on ${time}`;
}

// What witnesses cosigned is of the same log, and they did.
async function witnessed(it, found) {
  if (!it.checkpoint) {
    return new Nothing('without a checkpoint there is nothing to compare with');
  }
  if (!it.files.has(COSIGNED)) {
    if (it.quorum > 0) {
      throw new Refused(COSIGNED, `it is missing: ${it.witnesses[0].name} has cosigned nothing here`);
    }
    return new Nothing('no witness has cosigned: the package has no such file');
  }
  const cosigned = await checkpointOf(COSIGNED, await contentOf(it, COSIGNED), it.trusted);
  const proof = await linesIn(it, CONSISTENCY);
  if (proof.some((line) => !/^[0-9a-f]{64}$/.test(line))) {
    throw new Refused(CONSISTENCY, 'a line is no hash');
  }
  const hashes = proof.map((line) => Uint8Array.from(line.match(/../g), (byte) => parseInt(byte, 16)));
  const [first, second] = [it.checkpoint, cosigned].sort((a, b) => a.size - b.size);
  const objection = await inconsistency(first, second, hashes);
  if (objection) {
    throw new Refused(COSIGNED, `it is of another history: ${objection}`);
  }
  const claims = await cosignaturesOf(COSIGNED, cosigned.note, it.witnesses);
  const absent = it.witnesses.filter((key) => !claims.some((claim) => claim.key === key));
  const had = it.witnesses.length - absent.length;
  const without = absent.map((key) => key.name).join(' and ');
  if (had < it.quorum) {
    const short = it.quorum < it.witnesses.length ? `: ${had} of the ${it.quorum} that you ask for have` : '';
    throw new Refused(COSIGNED, `${without} has not cosigned it${short}`);
  }
  if (claims.length === 0) {
    return new Nothing('nobody has cosigned it: no witness has put its signature there');
  }
  it.claims = claims.filter((claim) => !claim.key);
  const theirs = claims.filter((claim) => claim.key);
  const shown = theirs.map((claim) => `${claim.name} on ${claim.time}`);
  for (const claim of shown) {
    found.facts.push(['cosigned by', claim]);
  }
  const entries = it.entries ?? [];
  const beyond = entries.filter((entry) => entry >= cosigned.size).length;
  const rest = beyond > 0 ? `; ${beyond} records of the package came after it` : '';
  const begin = `${cosigned.size.toLocaleString('en')} records of the same log`;
  if (shown.length === 0) {
    return new Nothing(`${begin}, but you gave the key of no witness: who cosigned is not shown`);
  }
  it.seen = cosigned.size;
  found.cosigned = { had, of: it.witnesses.length, asked: it.quorum, without };
  const less = absent.length > 0 ? ` and not by ${without}` : '';
  const said = `${begin}, cosigned by ${shown.join(' and ')}${less}${rest}`;
  const none = entries.length > 0 ? beyond === entries.length : cosigned.size === 0;
  return none ? new Nothing(`${said}: it speaks for none of them`) : said;
}

async function named(found) {
  const bundles = found.files.filter((file) => file.name.startsWith('policy/'));
  const other = bundles.find((file) => file.name !== `policy/${file.sum}.bundle`);
  if (other) {
    throw new Refused(other.name, 'it is not named by its SHA-256');
  }
  return bundles.length > 0 ? `${bundles.length} of them; what they decide is not asked` : new Nothing('there are none');
}
