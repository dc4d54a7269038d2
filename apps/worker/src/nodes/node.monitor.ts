import { Injectable, Logger } from '@nestjs/common';
import { UnitOfWork } from '@cairn/persistence';
import { RecurringTask } from '../schedule/recurring-task.js';

const intervalMs = 2000;

/**
 * Marks nodes `down` that have not been heard of for NODE_SILENCE_MS; a heartbeat makes them `ready` again.
 *
 * A node that is down gets no new volumes. What it serves it serves on, and operations on its volumes
 * are still tried until their deadline.
 */
@Injectable()
export class NodeMonitor extends RecurringTask {
  constructor(unitOfWork: UnitOfWork) {
    const logger = new Logger(NodeMonitor.name);
    super({
      name: NodeMonitor.name,
      intervalMs,
      run: async () => {
        const silent = await unitOfWork.read(({ nodes }) => nodes.markSilentDown());
        for (const { id, name, lastHeartbeatAt } of silent) {
          logger.warn(
            `node ${name} (${id}) is down: its last heartbeat came at ${lastHeartbeatAt.toISOString()}`,
          );
        }
      },
    });
  }
}
