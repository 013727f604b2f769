# A ranker behind HTTP. The artefact comes at run time, the journal goes beside it:
#   docker build -t lemur-mini .
#   docker run -p 8000:8000 -e LEMUR_MINI_TOKEN=... -v FOLDER:/artefact lemur-mini
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY data ./data
COPY lemur_mini ./lemur_mini
RUN pip install --no-cache-dir -c constraints.txt ".[serve]" \
    && useradd --create-home lemur && mkdir /artefact && chown lemur /artefact
USER lemur
VOLUME /artefact
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["lemur-mini", "serve", "/artefact", "--host", "0.0.0.0"]
