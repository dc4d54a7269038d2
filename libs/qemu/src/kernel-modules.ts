import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { QemuError } from './qemu-error.js';

/** A kernel module, decompressed. */
export interface KernelModule {
  name: string;
  content: Buffer;
}

/** Module names are written with `-` in some places and `_` in others; the kernel takes them for the same. */
const normal = (name: string) => name.replaceAll('-', '_');

const moduleFile = /^(.+)\.ko(\.xz|\.zst|\.gz)?$/;

/**
 * Reads the wanted modules and all that they depend on, in the order in which they must be loaded.
 *
 * What is built into the kernel is left out. A package that was only unpacked has no modules.dep yet, so the
 * dependencies are read from the modules themselves. Throws QemuError when a module does not exist at all.
 */
export function readModules(modulesDirectory: string, wanted: readonly string[]): KernelModule[] {
  const builtIn = new Set(
    readFileSync(join(modulesDirectory, 'modules.builtin'), 'utf8')
      .split('\n')
      .map((line) => normal(basename(line.trim(), '.ko'))),
  );
  const files = moduleFiles(modulesDirectory);
  const loaded = new Map<string, KernelModule>();

  const load = (name: string): void => {
    if (builtIn.has(name) || loaded.has(name)) return;
    const file = files.get(name);
    if (!file) throw new QemuError('guest-kernel-missing', `no kernel module ${name} in ${modulesDirectory}`);
    const content = readModule(file);
    dependenciesOf(content).forEach(load);
    loaded.set(name, { name, content });
  };
  wanted.map(normal).forEach(load);
  return [...loaded.values()];
}

function moduleFiles(directory: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    const match = moduleFile.exec(entry.name);
    if (match?.[1]) files.set(normal(match[1]), join(entry.parentPath, entry.name));
  }
  return files;
}

function readModule(file: string): Buffer {
  if (file.endsWith('.gz')) return gunzipSync(readFileSync(file));
  const tool = file.endsWith('.xz') ? 'xz' : file.endsWith('.zst') ? 'zstd' : undefined;
  if (!tool) return readFileSync(file);
  try {
    return execFileSync(tool, ['-dc', file], { maxBuffer: 256 * 1024 * 1024 });
  } catch (error) {
    throw new QemuError('guest-tool-missing', `${tool} is needed to unpack ${file}: install it`, {
      cause: error,
    });
  }
}

/** The `.modinfo` section is a run of NUL-ended `key=value` strings; `depends` is a list with commas. */
export function dependenciesOf(module: Buffer): string[] {
  const key = '\0depends=';
  const start = module.indexOf(key, 0, 'latin1');
  if (start < 0) return [];
  const from = start + key.length;
  const value = module.toString('latin1', from, module.indexOf(0, from));
  return value === '' ? [] : value.split(',').map(normal);
}
