export * from './agent.client.js';
export * from './agent.contract.js';
export * from './agent.errors.js';
export * from './metrics-text.js';
export * from './object-reader.js';
export * from './snapshot.contract.js';
