export { OperationConsumer, type OperationConsumerOptions } from './operation.consumer.js';
export { OperationNudger, type NudgerLog } from './operation.nudger.js';
export {
  chooseQueueBackend,
  DEFAULT_QUEUE_PREFIX,
  queuePrefixPattern,
  type QueueBackend,
} from './queue-backend.js';
export { operationJob, operationJobId, parseOperationJob, queues, type OperationJob } from './queues.js';
