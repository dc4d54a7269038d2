import 'reflect-metadata';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { ConfigurationError, EnvironmentReader, EXIT_CONFIGURATION } from '@cairn/domain';
import { Database } from '@cairn/persistence';
import { createKey } from './bootstrap.js';
import { readDatabaseConfig } from './config.js';

const USAGE = `Usage: node dist/apps/control-plane/src/keys.main.js create --project NAME

Makes an API key for a project (made now if it does not exist) and prints it once.
The database is named by DATABASE_URL or DATABASE_URL_FILE.
`;
/** sysexits.h EX_USAGE. */
const EXIT_USAGE = 64;

function projectOf(args: string[]): string | undefined {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { project: { type: 'string' }, help: { type: 'boolean' } },
    });
    if (values.help || positionals.length !== 1 || positionals[0] !== 'create') return undefined;
    return values.project !== undefined && /^[A-Za-z0-9._-]{1,64}$/.test(values.project)
      ? values.project
      : undefined;
  } catch {
    return undefined;
  }
}

const project = projectOf(process.argv.slice(2));
if (project === undefined) {
  process.stderr.write(`${USAGE}NAME is 1 to 64 letters, digits, dots, dashes and underscores.\n`);
  process.exit(EXIT_USAGE);
}
try {
  const reader = new EnvironmentReader(process.env, (path) => readFileSync(path, 'utf8'));
  const { databaseUrl, databaseWaitMs } = readDatabaseConfig(reader);
  reader.throwIfFaulty();
  const database = await Database.open(
    { url: databaseUrl, applicationName: 'cairn-keys', poolSize: 2 },
    { timeoutMs: databaseWaitMs },
  );
  try {
    process.stdout.write(`${await createKey(database.unitOfWork, project)}\n`);
  } finally {
    await database.close();
  }
} catch (error) {
  if (error instanceof ConfigurationError) {
    for (const { name, message } of error.faults) process.stderr.write(`keys: ${name} ${message}\n`);
    process.exit(EXIT_CONFIGURATION);
  }
  process.stderr.write(`keys: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
}
