import { Controller, Get } from '@nestjs/common';

/** Tells a supervisor that the process answers. Needs no token and says nothing else. */
@Controller('health')
export class HealthController {
  @Get('live')
  live(): { status: 'ok' } {
    return { status: 'ok' };
  }
}
