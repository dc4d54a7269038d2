import { Database } from '@cairn/persistence';
import { OperationNudger } from '@cairn/jobs';
import { Controller, Get, HttpCode, Res } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiProperty, ApiResponse, ApiTags } from '@nestjs/swagger';
import type { Response } from 'express';

/** The process answers. */
export class LiveDto {
  @ApiProperty({ enum: ['live'] })
  status!: 'live';
}

/** Which dependency answers. */
export class DependenciesDto {
  @ApiProperty({ enum: ['up', 'down'] })
  database!: 'up' | 'down';

  @ApiProperty({ enum: ['up', 'down'] })
  queue!: 'up' | 'down';
}

/** Whether requests can be served. */
export class ReadyDto {
  @ApiProperty({
    enum: ['ready', 'degraded', 'unavailable'],
    description:
      'degraded: the queue is down. Requests are served; their operations start when the sweep finds them, seconds later. ' +
      'unavailable: the database is down.',
  })
  status!: 'ready' | 'degraded' | 'unavailable';

  @ApiProperty({ type: DependenciesDto })
  dependencies!: DependenciesDto;
}

/** What a load balancer and a supervisor ask. */
@ApiTags('health')
@Controller('health')
export class HealthController {
  constructor(
    private readonly database: Database,
    private readonly nudger: OperationNudger,
  ) {}

  /** Answers as long as the process does; restart it when this fails. */
  @Get('live')
  @HttpCode(200)
  @ApiOperation({ summary: 'Is the process alive' })
  @ApiOkResponse({ type: LiveDto })
  live(): LiveDto {
    return { status: 'live' };
  }

  /** Answers 200 while requests can be served; send no traffic when this is 503. */
  @Get('ready')
  @ApiOperation({ summary: 'Can requests be served' })
  @ApiOkResponse({ type: ReadyDto })
  @ApiResponse({ status: 503, type: ReadyDto, description: 'The database is down.' })
  async ready(@Res({ passthrough: true }) response: Response): Promise<ReadyDto> {
    const [database, queue] = await Promise.all([answers(this.database.ping()), answers(this.nudger.ping())]);
    if (database === 'down') response.status(503);
    const status = database === 'down' ? 'unavailable' : queue === 'down' ? 'degraded' : 'ready';
    return { status, dependencies: { database, queue } };
  }
}

async function answers(ping: Promise<void>): Promise<'up' | 'down'> {
  return ping.then(
    () => 'up' as const,
    () => 'down' as const,
  );
}
