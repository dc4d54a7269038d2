/** Running other programs from set-up and test scripts: output captured, shown only when it matters. */
import { spawn, spawnSync } from 'node:child_process';

/** A step of a script that could not be done; the message already says what to do about it. */
export class ScriptError extends Error {}

/** Prints one progress line of a script. */
export function say(text) {
  process.stdout.write(`[cairn] ${text}\n`);
}

/** Milliseconds as people read them. */
export function seconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

/**
 * Runs a program to its end and returns what it printed.
 *
 * Throws ScriptError with the end of its output when it cannot be started or exits non-zero.
 */
export async function run(command, args, { cwd, env, what = command } = {}) {
  const { status, output, error } = await runToEnd(command, args, { cwd, env });
  if (error) throw new ScriptError(`${what}: cannot run ${command}: ${error.message}`);
  if (status !== 0) {
    throw new ScriptError(
      `${what} failed (${command} ${args.join(' ')}: status ${status}):\n${ends(output)}`,
    );
  }
  return output;
}

/** The beginning and the end of a long output: npm says what is wrong first, compilers last. */
function ends(output) {
  const lines = output.trimEnd().split('\n');
  if (lines.length <= 50) return lines.join('\n');
  return [...lines.slice(0, 20), `… ${lines.length - 50} lines …`, ...lines.slice(-30)].join('\n');
}

/** Runs a program to its end; never throws. With `live`, its output is passed through as it comes. */
export function runToEnd(command, args, { cwd, env, live = false } = {}) {
  return new Promise((resolve) => {
    let output = '';
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', live ? 'inherit' : 'pipe', live ? 'inherit' : 'pipe'],
    });
    const collect = (chunk) => {
      output += chunk;
    };
    child.stdout?.setEncoding('utf8').on('data', collect);
    child.stderr?.setEncoding('utf8').on('data', collect);
    child.on('error', (error) => resolve({ status: 127, output, error }));
    child.on('close', (code, signal) => resolve({ status: code ?? `signal ${signal}`, output }));
  });
}

/** Whether a program runs and exits 0, looked for in PATH and the sbin directories. */
export function works(command, args) {
  return spawnSync(command, args, { stdio: 'ignore', env: withSbin() }).status === 0;
}

/** The environment with /usr/sbin and /sbin in PATH, where mke2fs lives and users seldom look. */
export function withSbin() {
  return { ...process.env, PATH: `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/sbin:/sbin` };
}
