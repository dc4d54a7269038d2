import type { Command } from 'commander';
import { CliError } from '../cli-error.js';
import { DataDirectory } from '../stack/data-directory.js';
import { ApiClient } from './api-client.js';

/** Where the API is and who is asking. */
export interface ApiOptions {
  apiUrl?: string;
  apiKey?: string;
  dataDir?: string;
}

/** Adds the options by which a command finds the API. */
export function withApiOptions(command: Command): Command {
  return command
    .option('--api-url <url>', 'address of the API (default: $CAIRN_API_URL, else the stack on this machine)')
    .option('--api-key <key>', 'API key (default: $CAIRN_API_KEY, else the one made at first start)')
    .option('--data-dir <directory>', 'data directory of the stack (default: $CAIRN_DATA_DIR or .cairn)');
}

/**
 * The API that a command talks to: from its options, the environment, or the data directory of a local stack.
 *
 * Throws CliError that says what is missing.
 */
export function apiOf(options: ApiOptions, env: NodeJS.ProcessEnv = process.env): ApiClient {
  const directory = DataDirectory.resolve(options.dataDir, env);
  const url = options.apiUrl ?? env['CAIRN_API_URL'] ?? directory.findEndpoint();
  const key = options.apiKey ?? env['CAIRN_API_KEY'] ?? directory.findApiKey();
  if (!url) {
    throw new CliError(
      `there is no API address: nothing was started on ${directory.path}`,
      'Start the stack with "npm start", or give --api-url or CAIRN_API_URL.',
    );
  }
  if (!key) {
    throw new CliError(
      `there is no API key in ${directory.path}`,
      'Give --api-key or CAIRN_API_KEY (or --data-dir, where the stack keeps it).',
    );
  }
  if (!URL.canParse(url)) throw new CliError(`${url} is not a URL`, 'It looks like http://127.0.0.1:8700.');
  return new ApiClient(url.replace(/\/+$/, ''), key);
}
