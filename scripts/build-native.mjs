// Compiles the native addon (C files, Node-API headers from npm) and puts it where source and build look for it.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, 'libs/native/addon');
const files = readdirSync(folder).map((name) => join(folder, name));
const sources = files.filter((path) => path.endsWith('.c'));
const targets = ['libs/native/build', 'dist/libs/native/build'].map((place) =>
  join(root, place, 'cairn.node'),
);

const fresh = (path) =>
  existsSync(path) && files.every((file) => statSync(path).mtimeMs >= statSync(file).mtimeMs);
if (!targets.every(fresh)) {
  const headers = createRequire(import.meta.url)('node-api-headers').include_dir;
  const compiler = process.env.CC ?? 'cc';
  const [first] = targets;
  mkdirSync(dirname(first), { recursive: true });
  const scratch = `${first}.${process.pid}`;
  const flags = [
    '-std=gnu11',
    '-O2',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-fPIC',
    '-shared',
    '-fvisibility=hidden',
    '-DNAPI_VERSION=8',
  ];
  try {
    execFileSync(compiler, [...flags, '-I', headers, '-o', scratch, ...sources], { stdio: 'inherit' });
  } catch (error) {
    console.error(`cannot compile the native addon with '${compiler}': ${error.message}`);
    console.error(
      'A C compiler and the C library headers are needed: on Debian/Ubuntu, apt-get install gcc libc6-dev.',
    );
    process.exit(1);
  }
  renameSync(scratch, first);
  for (const target of targets.slice(1)) {
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(first, `${target}.${process.pid}`);
    renameSync(`${target}.${process.pid}`, target);
  }
  console.log(`native addon built with ${compiler}`);
}
