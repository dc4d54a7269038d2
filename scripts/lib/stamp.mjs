/** Skipping a build whose inputs have not changed: a digest of them, kept beside what was built. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** One digest over the names and contents of files and folders, and anything else that matters. */
export function digestOf(root, paths, salt = '', accept = () => true) {
  const hash = createHash('sha256').update(salt);
  for (const path of paths) add(hash, root, path, accept);
  return hash.digest('hex');
}

/** Whether the stamp file says that these inputs were built. */
export function isFresh(file, digest) {
  try {
    return readFileSync(file, 'utf8') === digest;
  } catch {
    return false;
  }
}

/** Records that these inputs were built. */
export function stamp(file, digest) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, digest);
}

function add(hash, root, path, accept) {
  const full = join(root, path);
  if (statSync(full).isDirectory()) {
    for (const entry of readdirSync(full, { withFileTypes: true }).toSorted((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      if (entry.isDirectory() && entry.name === 'build') continue;
      if (entry.isDirectory() || accept(entry.name)) add(hash, root, join(path, entry.name), accept);
    }
  } else {
    hash.update(`${path}\0`).update(readFileSync(full)).update('\0');
  }
}
