import { plug, unplug, QmpClient } from '@cairn/qemu';
import type { ApiAttachment, ApiClient } from '../api/api-client.js';
import { CliError } from '../cli-error.js';

/** One volume for one running guest. */
export interface HotPlugRequest {
  volumeId: string;
  qmpSocket: string;
  readOnly?: boolean;
  numQueues?: number;
  packed?: boolean;
  instanceId?: string;
  timeoutMs?: number;
}

/** Where the volume is now. */
export interface HotPlugged {
  attachment: ApiAttachment;
  bus: string | undefined;
}

/**
 * Attaches a volume through the API and plugs it into a running guest.
 *
 * The monitor is reached first, so a wrong socket changes nothing; when the plug fails, the volume is detached again.
 */
export async function hotPlug(api: ApiClient, request: HotPlugRequest): Promise<HotPlugged> {
  const { volumeId, instanceId, readOnly, numQueues } = request;
  const qmp = await QmpClient.connect(request.qmpSocket);
  try {
    const { attachment, operation } = await api.attach(volumeId, {
      ...(instanceId !== undefined && { instanceId }),
      ...(readOnly !== undefined && { readOnly }),
      ...(numQueues !== undefined && { numQueues }),
    });
    await api.finish(operation);
    const attached = await api.getAttachment(volumeId, attachment.id);
    try {
      return { attachment: attached, bus: await plugConnection(qmp, attached, request) };
    } catch (error) {
      const undo = await api.detach(volumeId, attachment.id, { force: true });
      await api.finish(undo.operation);
      throw error;
    }
  } finally {
    qmp.close();
  }
}

/** Takes the volume out of a running guest, then detaches it through the API. */
export async function hotUnplug(api: ApiClient, request: HotPlugRequest): Promise<void> {
  const { volumeId, qmpSocket, timeoutMs } = request;
  const attachment = (await api.listAttachments(volumeId)).find(
    ({ state }) => state !== 'detached' && state !== 'error',
  );
  const qmp = await QmpClient.connect(qmpSocket);
  try {
    await unplug(qmp, volumeId, timeoutMs === undefined ? {} : { timeoutMs });
  } finally {
    qmp.close();
  }
  if (!attachment) return;
  await api.finish((await api.detach(volumeId, attachment.id)).operation);
}

async function plugConnection(
  qmp: QmpClient,
  { connection, id }: ApiAttachment,
  { volumeId, packed, timeoutMs }: HotPlugRequest,
): Promise<string | undefined> {
  if (!connection) throw new CliError(`attachment ${id} has no connection`);
  const { bus } = await plug(qmp, {
    id: volumeId,
    socketPath: connection.socketPath,
    numQueues: connection.numQueues,
    ...(packed !== undefined && { packed }),
    ...(timeoutMs !== undefined && { timeoutMs }),
  });
  return bus;
}
