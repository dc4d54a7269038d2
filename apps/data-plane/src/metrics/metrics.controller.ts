import { Controller, Get, Header, UseGuards } from '@nestjs/common';
import { TokenGuard } from '../agent/token.guard.js';
import { MetricsText } from './metrics.text.js';

/** Metrics for Prometheus; a scrape carries the agent token. */
@Controller('metrics')
@UseGuards(TokenGuard)
export class MetricsController {
  constructor(private readonly metrics: MetricsText) {}

  @Get()
  @Header('content-type', 'text/plain; version=0.0.4; charset=utf-8')
  scrape(): Promise<string> {
    return this.metrics.render();
  }
}
