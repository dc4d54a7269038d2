/** A lock file held by a living process; what a dead one left behind is taken over. */
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

/** Runs `work` while holding the lock at `path`; waits for another holder, calling `onWait` once. */
export async function withLock(path, work, { onWait = () => {} } = {}) {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const mine = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`;
  writeFileSync(mine, identityOf(process.pid));
  try {
    for (let waited = false; !tryTake(path, mine); waited = true) {
      if (!waited) onWait(readFileOrEmpty(path).split(' ')[0]);
      await sleep(200);
    }
  } catch (error) {
    rmSync(mine, { force: true });
    throw error;
  }
  try {
    return await work();
  } finally {
    rmSync(path, { force: true });
    rmSync(mine, { force: true });
  }
}

/** link(2) creates the lock with its content in one step, so nobody ever reads it half written. */
function tryTake(path, mine) {
  try {
    linkSync(mine, path);
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  const holder = readFileOrEmpty(path);
  if (holder === '' || isAlive(holder)) return false;
  const stale = `${mine}.stale`;
  try {
    renameSync(path, stale);
    // Between reading and renaming somebody may have taken it over: then give it back.
    if (readFileOrEmpty(stale) !== holder) linkSync(stale, path);
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'EEXIST') throw error;
  }
  rmSync(stale, { force: true });
  return false;
}

/** Pid and start time: a pid alone may have been given to another process since. */
function identityOf(pid) {
  const stat = readFileOrEmpty(`/proc/${pid}/stat`);
  return `${pid} ${stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''}`;
}

function isAlive(identity) {
  const pid = Number(identity.split(' ')[0]);
  return Number.isInteger(pid) && identityOf(pid) === identity;
}

function readFileOrEmpty(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
