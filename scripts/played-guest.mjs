/**
 * A guest played by the project's own front-end, for the demo on machines where QEMU cannot run: it drives the disk
 * through vhost-user and a virtqueue as a guest's kernel would, but there is no kernel and no file system.
 *
 * Each line of standard input is {"verb": …, "socketPath"?: …}; each answer is one line, {"value": …} or {"error": …}.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { FakeBlkDisk } from '../dist/libs/vhost-user/src/testing/index.js';

const chunkBytes = 128 * 1024;
const labelBytes = 4096;
const dataOffset = 1024 * 1024;

let disk;

const verbs = {
  async plug({ socketPath }) {
    disk = await FakeBlkDisk.open(socketPath);
  },
  async unplug() {
    await disk?.detach();
    disk = undefined;
  },
  serial: () => disk.getId(),
  async format() {
    const label = Buffer.alloc(labelBytes);
    label.write(`a disk of ${disk.capacityBytes} bytes`);
    await disk.write(0, label);
    await disk.flush();
  },
  async write({ bytes }) {
    const hash = createHash('sha256');
    for (let offset = 0; offset < bytes; offset += chunkBytes) {
      const chunk = randomBytes(chunkBytes);
      hash.update(chunk);
      await disk.write(dataOffset + offset, chunk);
    }
    await disk.flush();
    return hash.digest('hex');
  },
  async checksum({ bytes }) {
    const hash = createHash('sha256');
    for (let offset = 0; offset < bytes; offset += chunkBytes) {
      hash.update(await disk.read(dataOffset + offset, chunkBytes));
    }
    return hash.digest('hex');
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { verb, ...args } = JSON.parse(line);
    answer = { value: await verbs[verb](args) };
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
disk?.close();
process.exit(0);
