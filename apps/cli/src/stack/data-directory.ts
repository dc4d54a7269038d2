import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { CliError } from '../cli-error.js';

/** unix(7): sun_path is 108 bytes with its terminating zero; the longest name is `/vol-0123456789abcdef0.sock`. */
const longestSocketDirectory = 107 - 27;

/**
 * Where one machine's stack keeps everything: database, pool, secrets, logs.
 *
 *   postgres/  secrets/  pool/  sockets/  state/  logs/  endpoint.json  agent.json  lock
 */
export class DataDirectory {
  readonly path: string;

  constructor(path: string) {
    this.path = resolve(path);
  }

  /** The directory of this process: `--data-dir`, CAIRN_DATA_DIR or `.cairn` in the working directory. */
  static resolve(option?: string, env: NodeJS.ProcessEnv = process.env): DataDirectory {
    return new DataDirectory(option ?? env['CAIRN_DATA_DIR'] ?? '.cairn');
  }

  /** Makes what is missing. Throws CliError when the place cannot be written to. */
  prepare(): void {
    try {
      // PostgreSQL may run as another user and has to pass through; what is secret is closed below.
      mkdirSync(this.path, { recursive: true, mode: 0o755 });
      chmodSync(this.path, 0o755);
      for (const name of ['secrets', 'pool', 'state', 'logs']) {
        mkdirSync(join(this.path, name), { recursive: true, mode: 0o700 });
      }
      mkdirSync(this.sockets, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw new CliError(
        `cannot write to the data directory ${this.path}: ${(error as Error).message}`,
        'Name another one with --data-dir or CAIRN_DATA_DIR.',
        { cause: error },
      );
    }
  }

  get postgres(): string {
    return join(this.path, 'postgres');
  }
  get pool(): string {
    return join(this.path, 'pool');
  }
  get state(): string {
    return join(this.path, 'state');
  }
  get logs(): string {
    return join(this.path, 'logs');
  }
  get lock(): string {
    return join(this.path, 'lock');
  }

  /** Sockets are here, or in the directory for temporary files where this path would be too long for them. */
  get sockets(): string {
    const here = join(this.path, 'sockets');
    if (Buffer.byteLength(here) <= longestSocketDirectory) return here;
    return join(tmpdir(), `cairn-${createHash('sha256').update(this.path).digest('hex').slice(0, 12)}`);
  }

  /** Where the stack that runs on this directory listens for other commands. */
  get control(): string {
    return join(this.sockets, 'up.sock');
  }

  /** The file of a secret, which `ensureSecret` makes. */
  secretFile(name: string): string {
    return join(this.path, 'secrets', name);
  }

  /** Makes a secret unless there is one, and tells whether it was made now. Only the owner can read it. */
  ensureSecret(name: string, make: () => string): { file: string; value: string; isNew: boolean } {
    const file = this.secretFile(name);
    if (existsSync(file)) return { file, value: readFileSync(file, 'utf8').trim(), isNew: false };
    const value = make();
    this.writeSecret(name, value);
    return { file, value, isNew: true };
  }

  /** Writes a secret, replacing what was there in one step. */
  writeSecret(name: string, value: string): string {
    const file = this.secretFile(name);
    const scratch = `${file}.${process.pid}`;
    writeFileSync(scratch, `${value}\n`, { mode: 0o600 });
    renameSync(scratch, file);
    return file;
  }

  /** Leaves the address of the running API for the commands that use it. */
  writeEndpoint(url: string): void {
    writeFileSync(join(this.path, 'endpoint.json'), `${JSON.stringify({ url })}\n`);
  }

  /** Leaves the address of the data plane's agent, too. */
  writeAgentUrl(url: string): void {
    writeFileSync(join(this.path, 'agent.json'), `${JSON.stringify({ url })}\n`);
  }

  /** The address of the API that runs, or last ran, on this directory. */
  findEndpoint(): string | undefined {
    return this.findUrl('endpoint.json');
  }

  /** The address of the data plane's agent that runs, or last ran, on this directory. */
  findAgentUrl(): string | undefined {
    return this.findUrl('agent.json');
  }

  /** The API key made at first start. */
  findApiKey(): string | undefined {
    try {
      return readFileSync(this.secretFile('api-key'), 'utf8').trim();
    } catch {
      return undefined;
    }
  }

  private findUrl(name: string): string | undefined {
    try {
      const { url } = JSON.parse(readFileSync(join(this.path, name), 'utf8')) as { url?: unknown };
      return typeof url === 'string' ? url : undefined;
    } catch {
      return undefined;
    }
  }
}

/** A token of 256 random bits. */
export function newToken(): string {
  return randomBytes(32).toString('base64url');
}

/** An API key: its public id, then 256 random bits. */
export function newApiKey(): string {
  return `cairn_${randomBytes(8).toString('hex')}_${newToken()}`;
}
