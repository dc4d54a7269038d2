export { exportStatusOf } from './export-status.js';
