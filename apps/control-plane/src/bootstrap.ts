import type { UnitOfWork } from '@cairn/persistence';
import { newApiKey, parseApiKey, secretSha256 } from './http/api-key.js';

/** The project of a fresh installation. */
export const DEFAULT_PROJECT = 'default';

/** Makes sure that the project exists and the key opens it. Throws when the key is not of a key's form. */
export async function ensureKey(unitOfWork: UnitOfWork, projectName: string, apiKey: string): Promise<void> {
  const key = parseApiKey(apiKey);
  if (!key)
    throw new Error('The API key is not of the form cairn_<16 hex digits>_<43 base64url characters>.');
  await unitOfWork.run(async ({ projects }) => {
    const { id: projectId } = await projects.ensure(projectName);
    await projects.insertKey({ id: key.id, projectId, secretSha256: secretSha256(key.secret) });
  });
}

/** Makes a key for a project, which is made too if need be, and returns it: the only time it can be seen. */
export async function createKey(unitOfWork: UnitOfWork, projectName: string): Promise<string> {
  const apiKey = newApiKey();
  await ensureKey(unitOfWork, projectName, apiKey);
  return apiKey;
}
