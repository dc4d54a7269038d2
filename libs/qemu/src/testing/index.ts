export { FakeMonitor, type Answer, type ReceivedCommand } from './fake-monitor.js';
