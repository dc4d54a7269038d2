import { describeBackEnd } from '../support/back-end.conformance.js';
import { startExport } from '../support/export-process.js';

describeBackEnd('cairn export', startExport, { mixedIndirect: true });
