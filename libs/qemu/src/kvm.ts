import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';

const PROBE_TIMEOUT_MS = 10_000;

/** Arguments of a machine that does nothing but start and end, with the processor that guests get. */
const PROBE = [
  '-nodefaults',
  '-no-user-config',
  '-display',
  'none',
  '-machine',
  'q35,accel=kvm',
  '-m',
  '16M',
];

let known: boolean | undefined;

/** Whether guests can run under KVM here; found once for each process. */
export function hasKvm(): boolean {
  known ??= kvmWorks();
  return known;
}

/**
 * Whether KVM is allowed here and gives a machine.
 *
 * Being allowed does not suffice: inside another virtual machine there are processors that KVM offers and QEMU dies of.
 */
export function kvmWorks({ device = '/dev/kvm', qemu = 'qemu-system-x86_64' } = {}): boolean {
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
  } catch {
    return false;
  }
  const { status } = spawnSync(qemu, [...PROBE, '-cpu', 'host', '-S', '-monitor', 'stdio'], {
    input: 'quit\n',
    stdio: ['pipe', 'ignore', 'ignore'],
    timeout: PROBE_TIMEOUT_MS,
  });
  return status === 0;
}
