// Compiles the native addon (one C file, Node-API headers from npm) and puts it where source and build look for it.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, 'libs/native/addon/cairn.c');
const targets = ['libs/native/build', 'dist/libs/native/build'].map((folder) =>
  join(root, folder, 'cairn.node'),
);

const fresh = (path) => existsSync(path) && statSync(path).mtimeMs >= statSync(source).mtimeMs;
if (!targets.every(fresh)) {
  const headers = createRequire(import.meta.url)('node-api-headers').include_dir;
  const compiler = process.env.CC ?? 'cc';
  const [first] = targets;
  mkdirSync(dirname(first), { recursive: true });
  const scratch = `${first}.${process.pid}`;
  const flags = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-fPIC', '-shared', '-DNAPI_VERSION=8'];
  try {
    execFileSync(compiler, [...flags, '-I', headers, '-o', scratch, source], { stdio: 'inherit' });
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
