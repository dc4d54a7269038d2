import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, SwaggerModule } from '@nestjs/swagger';

/** Serves the OpenAPI document at /v1/openapi.json and a page to read and try it at /docs, both without a key. */
export function serveOpenApi(app: INestApplication, version: string): void {
  const config = new DocumentBuilder()
    .setTitle('Cairn')
    .setDescription(
      'Block volumes for virtual machines. Mutations answer 202 with an operation; poll it until it ends. ' +
        'Errors are application/problem+json (RFC 9457).',
    )
    .setVersion(version)
    .addBearerAuth({ type: 'http', scheme: 'bearer', description: 'An API key, cairn_…' }, 'apiKey')
    .addBearerAuth(
      { type: 'http', scheme: 'bearer', description: 'The join token of the nodes' },
      'joinToken',
    )
    .build();
  const document = SwaggerModule.createDocument(app, config, {
    operationIdFactory: (controller, method) => `${method}${controller.replace(/Controller$/, '')}`,
  });
  SwaggerModule.setup('docs', app, document, {
    jsonDocumentUrl: 'v1/openapi.json',
    raw: ['json'],
    customSiteTitle: 'Cairn API',
    // The page must work without the internet: no call to swagger.io's validator.
    swaggerOptions: { validatorUrl: null, persistAuthorization: false },
  });
}
