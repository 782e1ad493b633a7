// The API for people: Swagger UI over the server's own OpenAPI document.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null, // else it would show the document to a validator on another host
});
