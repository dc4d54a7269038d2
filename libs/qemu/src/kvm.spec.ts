import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { kvmWorks } from './kvm.js';

describe('kvmWorks', () => {
  let directory: string;
  beforeEach(() => (directory = mkdtempSync(join(tmpdir(), 'cairn-kvm-'))));
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  /** A program in place of QEMU that has read its monitor's input, and a device that may be opened. */
  const qemuThat = (does: string) => {
    const device = join(directory, 'kvm');
    const qemu = join(directory, 'qemu');
    writeFileSync(device, '');
    writeFileSync(qemu, `#!/bin/sh\nread -r command\n${does}\n`, { mode: 0o755 });
    return { device, qemu };
  };

  it('holds where QEMU starts under KVM and ends when it is told to', () => {
    expect(kvmWorks(qemuThat('[ "$command" = quit ]'))).toBe(true);
  });

  it('does not where QEMU dies of it', () => {
    expect(kvmWorks(qemuThat('kill -ABRT $$'))).toBe(false);
  });

  it('does not where there is no device, or no QEMU', () => {
    const { device, qemu } = qemuThat('exit 0');
    expect(kvmWorks({ device: `${device}-not`, qemu })).toBe(false);
    expect(kvmWorks({ device, qemu: `${qemu}-not` })).toBe(false);
  });
});
