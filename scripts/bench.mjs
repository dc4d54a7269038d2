/**
 * `npm run bench`: builds the product and the benchmark, sees that the peers are there, and measures.
 *
 *   node scripts/bench.mjs [subject] [options]     --help says which
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { run, say } from './lib/run.mjs';
import { digestOf, isFresh, stamp } from './lib/stamp.mjs';
import { ensureSystemPackages } from './lib/system-packages.mjs';
import { main, root, setUp } from './setup.mjs';

const program = join(root, 'dist/test/bench/main.js');

async function buildBench() {
  const inputs = digestOf(
    root,
    ['libs', 'test/bench', 'test/support', 'nest-cli.json', 'tsconfig.json'],
    '',
    (name) => /\.(ts|c|json)$/.test(name),
  );
  const file = join(root, 'dist/test/.stamp');
  if (existsSync(program) && isFresh(file, inputs)) return;
  say('compiling the benchmark');
  await run(process.execPath, ['node_modules/@nestjs/cli/bin/nest.js', 'build', 'bench'], {
    cwd: root,
    what: 'nest build bench',
  });
  const compiler = process.env.CC ?? 'cc';
  const loop = [
    '-std=gnu11',
    '-O2',
    '-Wall',
    '-Wextra',
    '-o',
    'dist/test/bench/bare-loop',
    'test/bench/bare-loop.c',
  ];
  await run(compiler, loop, { cwd: root, what: 'compiling the bare loop' });
  stamp(file, inputs);
}

await main(async () => {
  const args = process.argv.slice(2);
  await setUp();
  await ensureSystemPackages(['compiler', 'storage-daemon', 'qemu-img', 'fio']);
  await buildBench();
  const child = spawn(process.execPath, [program, ...args], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM'])
    process.on(signal, () => signal !== 'SIGINT' && child.kill(signal));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
});
