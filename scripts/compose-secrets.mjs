/**
 * Makes the secrets that docker-compose.yml hands to its containers, each in a file of .cairn/compose; those that are
 * there already are kept. The directory is closed to other users; the files are not, because a container's user has
 * to read them, and Docker binds each file by itself.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const directory = join(dirname(dirname(fileURLToPath(import.meta.url))), '.cairn', 'compose');
mkdirSync(directory, { recursive: true, mode: 0o700 });

const token = () => randomBytes(32).toString('base64url');

function ensure(name, make) {
  const file = join(directory, name);
  if (!existsSync(file)) writeFileSync(file, make(), { mode: 0o644, flag: 'wx' });
  return readFileSync(file, 'utf8');
}

const databasePassword = ensure('database-password', token);
ensure('database-url', () => `postgres://cairn:${databasePassword}@postgres:5432/cairn`);
const redisPassword = ensure('redis-password', token);
ensure('redis-url', () => `redis://:${redisPassword}@redis:6379`);
ensure('agent-token', token);
ensure('join-token', token);
ensure('api-key', () => `cairn_${randomBytes(8).toString('hex')}_${token()}`);

process.stdout.write(`The secrets are in ${directory}; the API key is in ${join(directory, 'api-key')}.\n`);
