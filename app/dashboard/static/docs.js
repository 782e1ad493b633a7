// The page of the API: Swagger UI with the server's own OpenAPI document.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null, // otherwise it would send the document to a validator on another host
});
