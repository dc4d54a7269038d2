/**
 * `npm test`: set-up, then every check there is, in the order in which they are cheap.
 *
 *   node scripts/test.mjs [step ...]      runs only the named steps, for instance: npm test -- lint unit
 *
 * The last line is `N passed, N failed`: the tests of all Vitest steps, and one failure for each other step that
 * failed or Vitest step that broke without a failing test.
 */
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runToEnd, say, seconds } from './lib/run.mjs';
import { root, setUp } from './setup.mjs';

/** A check that passes or fails as a whole. */
const checks = {
  format: ['prettier', '--check', '.'],
  lint: ['oxlint', '--type-aware', '--deny-warnings'],
  boundaries: ['depcruise', 'apps', 'libs', '--config', '.dependency-cruiser.cjs'],
  typecheck: ['tsc', '--noEmit', '-p', 'tsconfig.json'],
};

/** Vitest projects; all but the first have their tests in a directory of that name, and some may have none. */
const suites = ['unit', 'integration', 'e2e', 'guest', 'crash', 'store', 'fuzz'];
const optionalSuites = new Set(['crash', 'store', 'fuzz']);

const wanted = process.argv.slice(2);
const known = [...Object.keys(checks), ...suites];
const unknown = wanted.filter((name) => !known.includes(name));
const total = { passed: 0, failed: 0 };
const summary = [];

if (unknown.length > 0) {
  process.stderr.write(`no step ${unknown.join(', ')}; there are: ${known.join(', ')}\n`);
  process.exitCode = 2;
} else {
  await runAll();
}

async function runAll() {
  const scratch = mkdtempSync(join(tmpdir(), 'cairn-test-'));
  try {
    const names = known.filter((name) => wanted.length === 0 || wanted.includes(name));
    if (await timed('set-up', () => prepare(names))) {
      for (const name of names) {
        if (optionalSuites.has(name) && !hasSpecs(name)) continue;
        await timed(name, () => (name in checks ? runCheck(checks[name]) : runSuite(name, scratch)));
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  process.stdout.write(`\n${summary.join('\n')}\n\n${total.passed} passed, ${total.failed} failed\n`);
  process.exitCode = total.failed > 0 ? 1 : 0;
}

async function prepare(names) {
  const needsServices = names.some((name) => suites.indexOf(name) > 0);
  const needsGuests = names.includes('guest') || names.includes('crash');
  await setUp({ guest: needsGuests ? 'required' : 'none', test: needsServices });
  return { passed: 0, failed: 0 };
}

/** Runs one step, adds up its counts and notes its line; returns whether it went well. */
async function timed(name, work) {
  say(`${name} …`);
  const started = Date.now();
  let counts;
  try {
    counts = await work();
  } catch (error) {
    process.stderr.write(`[cairn] ${error.message}\n`);
    counts = { passed: 0, failed: 1 };
  }
  total.passed += counts.passed;
  total.failed += counts.failed;
  const { passed, failed, skipped = 0 } = counts;
  const tests = passed + failed > 0 && suites.includes(name) ? `${passed} passed, ${failed} failed` : '';
  const line = [
    `  ${failed === 0 ? 'ok    ' : 'FAILED'} ${name.padEnd(12)} ${seconds(Date.now() - started).padStart(8)}`,
    tests,
    skipped > 0 ? `${skipped} skipped` : '',
  ];
  summary.push(line.filter(Boolean).join('  '));
  say(`${name}: ${failed === 0 ? 'ok' : 'FAILED'} in ${seconds(Date.now() - started)}`);
  return failed === 0;
}

async function runCheck([tool, ...args]) {
  const { status, output } = await runToEnd(binary(tool), args, { cwd: root });
  if (status !== 0) process.stdout.write(output);
  return { passed: 0, failed: status === 0 ? 0 : 1 };
}

async function runSuite(name, scratch) {
  const report = join(scratch, `${name}.json`);
  const args = [
    'run',
    '--project',
    name,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ];
  const { status } = await runToEnd(binary('vitest'), args, {
    cwd: root,
    live: true,
    env: { NODE_ENV: 'test' },
  });
  if (!existsSync(report)) return { passed: 0, failed: 1 };
  return countsOf(JSON.parse(readFileSync(report, 'utf8')), status);
}

/** Files that could not even be loaded have no tests to count, so each counts as one failure. */
function countsOf({ numPassedTests, numFailedTests, numPendingTests = 0, testResults = [] }, status) {
  const broken = testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  ).length;
  const failed = numFailedTests + broken;
  if (numPassedTests + failed === 0) say('no test ran, which counts as a failure');
  const silent = failed === 0 && (status !== 0 || numPassedTests === 0) ? 1 : 0;
  return { passed: numPassedTests, failed: failed + silent, skipped: numPendingTests };
}

function hasSpecs(name) {
  const directory = join(root, 'test', name);
  return (
    existsSync(directory) &&
    readdirSync(directory, { recursive: true }).some((file) => file.endsWith('.spec.ts'))
  );
}

function binary(name) {
  return join(root, 'node_modules/.bin', name);
}
