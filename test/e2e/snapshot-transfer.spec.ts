import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { MIB } from '@cairn/domain';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { emptyNode, eventually, Stack } from '../support/stack.js';

const run = promisify(execFile);
const program = fileURLToPath(new URL('../../dist/apps/cli/src/main.js', import.meta.url));
const blockBytes = MIB / 2;

describe('cairn snapshot import and export', () => {
  let stack: Stack;
  const env = () => ({
    ...process.env,
    CAIRN_API_URL: stack.api.baseUrl,
    CAIRN_API_KEY: stack.controlPlane.env['CAIRN_BOOTSTRAP_API_KEY'],
  });
  const cairn = async (...args: string[]): Promise<string> =>
    (await run(process.execPath, [program, 'snapshot', ...args], { env: env() })).stdout;
  const refusalOf = (...args: string[]): Promise<string> =>
    cairn(...args).then(
      () => 'done',
      (error: { stderr: string }) => error.stderr,
    );
  const idOf = (stdout: string): string => /^(snap-\S+)  completed /.exec(stdout)![1]!;
  const at = (name: string) => join(stack.directory, name);

  beforeAll(async () => {
    stack = await Stack.start({ queue: 'postgres' });
  });
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(stack?.logs() ?? '');
    const { body } = await stack.api.send<{ snapshots: { id: string }[] }>('GET', '/v1/snapshots');
    for (const { id } of body.snapshots) await stack.api.deleteSnapshot(id);
    await eventually('an empty node', async () => {
      expect(await stack.nodeContents()).toEqual(emptyNode);
      return true;
    });
  });
  afterAll(() => stack?.stop());

  /** An image that begins and ends in data, with a hole between, of a size that is no multiple of anything. */
  function sparseImage(name: string): Buffer {
    const image = Buffer.concat([randomBytes(blockBytes + 5), Buffer.alloc(6 * MIB), randomBytes(10_001)]);
    writeFileSync(at(name), image.subarray(0, blockBytes + 5));
    truncateSync(at(name), image.length - 10_001);
    writeFileSync(at(name), image.subarray(-10_001), { flag: 'a' });
    return image;
  }

  it('carry an image in and out as it is, and nothing that is zero', async () => {
    const image = sparseImage('image');
    const id = idOf(await cairn('import', at('image'), '--name', 'from a file', '--tag', 'a=b'));
    const listed = await stack.api.send<{ blocks: { index: number }[] }>('GET', `/v1/snapshots/${id}/blocks`);
    expect(listed.body.blocks.map(({ index }) => index)).toEqual([0, 1, 13]);
    expect((await stack.api.send('GET', `/v1/snapshots/${id}`)).body).toMatchObject({
      name: 'from a file',
      tags: { a: 'b' },
      progress: 100,
    });
    expect(await cairn('export', id, at('copy'))).toContain(`${id} is in `);
    const copy = readFileSync(at('copy'));
    expect(copy.length % 4096).toBe(0);
    expect(copy.subarray(0, image.length).equals(image)).toBe(true);
    expect(copy.subarray(image.length).every((byte) => byte === 0)).toBe(true);
    expect(statSync(at('copy')).blocks * 512).toBeLessThan(2 * MIB);
    // What is there is not written over.
    expect(await refusalOf('export', id, at('copy'))).toContain('EEXIST');
    expect(await cairn('list')).toMatch(new RegExp(`^${id}  completed  \\d+  -  `));
  });

  it('are two ends of a pipe, and a snapshot may grow', async () => {
    const image = sparseImage('piped');
    const first = idOf(await cairn('import', at('piped'), '--size', '8M'));
    const line = `"$0" "$1" snapshot export ${first} - | "$0" "$1" snapshot import - --size 8M`;
    const { stdout } = await run('sh', ['-c', line, process.execPath, program], { env: env() });
    await cairn('export', idOf(stdout), at('out of the pipe'));
    const out = readFileSync(at('out of the pipe'));
    expect(out.length).toBe(8 * MIB);
    expect(out.subarray(0, image.length).equals(image)).toBe(true);
  });

  it('follow a parent, of which zeroes hide what it had', async () => {
    const image = randomBytes(4 * blockBytes);
    writeFileSync(at('parent'), image);
    const parent = idOf(await cairn('import', at('parent')));
    image.fill(0, blockBytes, 2 * blockBytes);
    writeFileSync(at('child'), image);
    const child = idOf(await cairn('import', at('child'), '--parent', parent));
    expect((await stack.api.send('GET', `/v1/snapshots/${child}`)).body).toMatchObject({
      parentSnapshotId: parent,
    });
    await cairn('export', child, at('of the child'));
    expect(readFileSync(at('of the child')).equals(image)).toBe(true);
  });

  it('carry only what changed, and nothing that was cut or damaged on its way', async () => {
    const image = randomBytes(4 * blockBytes + 4096);
    writeFileSync(at('before'), image);
    const [here, there] = [
      idOf(await cairn('import', at('before'))),
      idOf(await cairn('import', at('before'))),
    ];
    image.fill(0, blockBytes, 2 * blockBytes);
    image.fill(7, 4 * blockBytes);
    writeFileSync(at('after'), image);
    const later = idOf(await cairn('import', at('after'), '--parent', here));
    // It has blocks that are as they were: a raw image says all.
    await cairn('export', later, at('changes'), '--from', here);
    const copy = idOf(await cairn('import', at('changes'), '--changes', '--parent', there));
    await cairn('export', copy, at('of the changes'));
    expect(readFileSync(at('of the changes')).equals(image)).toBe(true);

    const empty = await cairn('export', here, at('no changes'), '--from', here);
    expect([empty, statSync(at('no changes')).size < 200]).toEqual([
      `${here} is in ${at('no changes')}\n`,
      true,
    ]);
    const changes = readFileSync(at('changes'));
    writeFileSync(at('cut'), changes.subarray(0, -1));
    const bad = ['--changes', '--parent', there];
    expect(await refusalOf('import', at('cut'), ...bad)).toContain('end too early');
    expect(await refusalOf('import', at('before'), ...bad)).toContain('no changes of a snapshot');
    expect(await refusalOf('import', at('changes'), '--changes')).toContain('--parent');
    expect(await refusalOf('export', here, at('backwards'), '--from', later)).toContain('no ancestor');
    expect(existsSync(at('backwards'))).toBe(false);
  });

  it('go on when the node was killed meanwhile', async () => {
    const image = randomBytes(4 * MIB);
    const args = [program, 'snapshot', 'import', '-', '--size', String(image.length)];
    const child = spawn(process.execPath, args, { env: env(), stdio: ['pipe', 'pipe', 'inherit'] });
    let stdout = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stdin.write(image.subarray(0, 2 * MIB));
    await eventually('a snapshot with blocks', async () => (await stack.nodeContents()).files.length >= 3);
    await stack.dataPlane.kill();
    child.stdin.end(image.subarray(2 * MIB));
    await new Promise((resolve) => setTimeout(resolve, 500));
    await stack.dataPlane.start();
    const [code] = await once(child, 'close');
    expect(code).toBe(0);
    await cairn('export', idOf(stdout), at('after a kill'));
    expect(readFileSync(at('after a kill')).equals(image)).toBe(true);
  });

  it('say what is wrong, and leave nothing behind', async () => {
    writeFileSync(at('small'), randomBytes(MIB + 5000));
    expect(await refusalOf('import', at('nothing'))).toContain('ENOENT');
    expect(await refusalOf('import', at('small'), '--size', '1M')).toContain('more than 1048576');
    expect(await refusalOf('import', at('small'), '--parent', 'snap-0123456789abcdef0')).toContain(
      'no snapshot',
    );
    expect(await refusalOf('export', 'snap-0123456789abcdef0', at('none'))).toContain('no snapshot');
    expect(existsSync(at('none'))).toBe(false);
    const piped = async (size: string) => {
      const line = `cat "$2" | "$0" "$1" snapshot import - ${size}`;
      const shell = run('sh', ['-c', line, process.execPath, program, at('small')], { env: env() });
      return shell.then(
        () => 'done',
        (error: { stderr: string }) => error.stderr,
      );
    };
    expect(await piped('')).toContain('--size');
    expect(await piped('--size 2M')).toContain('ended after 1053576 of 2097152 bytes');
    expect(await piped('--size 1M')).toContain('more than 1048576 bytes');
    expect(await piped(`--size ${MIB + 8192}`)).toBe('done');
  });
});
